"""What is told of how small a document will get, beside what it then is."""

from collections.abc import Callable
from pathlib import Path

import pikepdf
import pytest

from backend.compression.engine import (
    DamagedPdf,
    Level,
    NeedsPassword,
    NotAPdf,
    compress,
    estimate,
)
from backend.compression.engine.estimating import estimates

Sample = Callable[[str], Path]
PATIENCE_SECONDS = 60.0


@pytest.mark.parametrize("name", ["photo", "scan-gray", "scan-1bit", "office", "form", "encrypted"])
def test_what_is_expected_is_near_what_it_becomes(
    name: str, sample: Sample, tmp_path: Path
) -> None:
    found = estimate(sample(name), seconds=PATIENCE_SECONDS)
    assert found.sampled > 0.3
    assert found.sizes is not None
    for level in Level:
        done = compress(sample(name), tmp_path / "x.pdf", level=level)
        assert abs(found.expected[level] - done.compressed_bytes) <= 0.07 * done.original_bytes


def test_stronger_levels_are_expected_to_be_smaller_and_each_look_is_told(sample: Sample) -> None:
    told = list(estimates(sample("office"), None, PATIENCE_SECONDS))
    assert len(told) > 3
    sizes = [told[-1].expected[level] for level in Level]
    assert sizes == sorted(sizes, reverse=True)


def test_it_is_said_why_a_document_gets_no_smaller(sample: Sample, tmp_path: Path) -> None:
    small = tmp_path / "small.pdf"
    compress(sample("scan-1bit"), small, level=Level.LOSSLESS)
    (reason,) = estimate(small, seconds=PATIENCE_SECONDS).reasons
    assert reason.startswith("Images take ")
    assert "% of its bytes" in reason

    (reason,) = estimate(sample("signed"), seconds=PATIENCE_SECONDS).reasons
    assert "signed" in reason


def test_attachments_are_named_as_the_reason(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "attached.pdf"
    with pikepdf.open(sample("office")) as pdf:
        noise = sample("photo").read_bytes() * 8
        pdf.attachments["noise"] = pikepdf.AttachedFileSpec(pdf, noise, filename="noise")
        pdf.save(path, compress_streams=False)
    reasons = estimate(path, seconds=PATIENCE_SECONDS).reasons
    assert reasons[0].startswith("Attached files take ")


def test_what_was_broken_is_told_in_words_without_a_path(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "cut.pdf"
    whole = sample("office").read_bytes()
    path.write_bytes(whole[: whole.rindex(b"xref") + 10])
    problems = estimate(path, seconds=PATIENCE_SECONDS).problems
    assert "Attempting to reconstruct cross-reference table" in problems, problems
    assert str(tmp_path) not in " ".join(problems)


@pytest.mark.parametrize(
    ("name", "error"), [("password", NeedsPassword), ("broken", DamagedPdf), ("text", NotAPdf)]
)
def test_what_cannot_be_opened_is_refused(
    name: str, error: type[Exception], sample: Sample, tmp_path: Path
) -> None:
    text = tmp_path / "text.pdf"
    text.write_bytes(b"nothing of the kind")
    with pytest.raises(error):
        estimate(text if name == "text" else sample(name), seconds=PATIENCE_SECONDS)


def test_a_password_opens(sample: Sample) -> None:
    assert estimate(sample("password"), "baz", seconds=PATIENCE_SECONDS).encrypted


def test_without_time_nothing_is_expected_and_that_is_said(sample: Sample) -> None:
    found = estimate(sample("photo"), seconds=0.0)
    assert found.original_bytes == sample("photo").stat().st_size
    assert found.expected == {}
    assert "in time" in found.reasons[0]
