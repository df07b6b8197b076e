"""What only the bucket store promises."""

from pathlib import Path

import pytest

from backend.config import Settings
from backend.errors import Unavailable
from backend.storage.blobs import open_store


def test_keys_stand_under_the_prefix_of_the_address(s3_settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    open_store(s3_settings).put("1/ab/x", source)
    bucket = open_store(s3_settings.model_copy(update={"storage_url": "s3://sluice-test"}))
    assert [blob.key for blob in bucket.list()] == ["files/1/ab/x"]


def test_a_bucket_that_is_not_there_is_unavailable(s3_settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    blobs = open_store(s3_settings.model_copy(update={"storage_url": "s3://no-such-bucket"}))
    with pytest.raises(Unavailable):
        blobs.put("1/ab/x", source)
