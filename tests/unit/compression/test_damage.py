"""Whatever happened to a file on its way here, it is compressed or refused in words."""

import tempfile
from pathlib import Path

import pikepdf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.compression.engine import Level, SignedPolicy, compress
from backend.errors import AppError

SAMPLES = Path(__file__).parents[2] / "fixtures" / "pdf"
SMALL = {
    name: (SAMPLES / f"{name}.pdf").read_bytes()
    for name in ("scan-1bit", "signed", "password", "broken")
}

flips = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=40)


def compressed_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, target = folder / "source.pdf", folder / "small.pdf"
        source.write_bytes(content)
        try:
            done = compress(
                source,
                target,
                level=Level.MEDIUM,
                password="baz",
                signed=SignedPolicy.COPY_AND_INVALIDATE,
            )
        except AppError:
            assert {path.name for path in folder.iterdir()} == {"source.pdf"}
            return
        with pikepdf.open(target, password="baz" if done.after.inventory.encrypted else "") as pdf:
            assert len(pdf.pages) == done.after.inventory.pages > 0


@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.sampled_from(sorted(SMALL)), flips, st.floats(0, 1))
def test_flipped_bytes_and_lost_ends(
    name: str, changes: list[tuple[float, int]], kept: float
) -> None:
    spoiled = bytearray(SMALL[name])
    for where, byte in changes:
        spoiled[int(where * (len(spoiled) - 1))] = byte
    compressed_or_refused(bytes(spoiled[: max(1, int(kept * len(spoiled)))]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(SMALL)),
    st.sampled_from([b"/Length", b"/Kids", b"/Filter", b"/Type", b"obj", b"xref"]),
    st.sampled_from([b"", b"/", b"[", b"<<", b"0 0 R", b"99999999"]),
    st.integers(1, 5),
)
def test_mangled_keywords(name: str, keyword: bytes, replacement: bytes, times: int) -> None:
    compressed_or_refused(SMALL[name].replace(keyword, replacement, times))


@pytest.mark.parametrize("name", ["form", "office", "photo", "encrypted"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_large_samples_that_broke_off(name: str, kept: float) -> None:
    content = (SAMPLES / f"{name}.pdf").read_bytes()
    compressed_or_refused(content[: int(kept * len(content))])
