"""What is refused before anything is done, and what is not."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.compression.engine import DamagedPdf, Level, TooElaborate, bombs, compress, truetype
from tests.unit.compression import hostile


def test_what_unpacks_to_too_much_is_refused_with_both_sizes(tmp_path: Path) -> None:
    source = tmp_path / "bomb.pdf"
    source.write_bytes(hostile.many_small_bombs())
    with pytest.raises(TooElaborate, match=f"{source.stat().st_size} bytes unpacks to more than"):
        compress(source, tmp_path / "small.pdf", level=Level.MEDIUM)
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.pdf"]


def test_too_many_objects_are_refused_with_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bombs, "_OBJECTS_MAX", 5)
    source = tmp_path / "many.pdf"
    source.write_bytes(hostile.page(b"", hostile.padding(), hostile.padding()))
    with pytest.raises(TooElaborate, match="6 objects; it can have 5"):
        compress(source, tmp_path / "small.pdf", level=Level.MEDIUM)


def test_a_page_tree_without_an_end_is_damage(tmp_path: Path) -> None:
    source = tmp_path / "deep.pdf"
    source.write_bytes(hostile.page_tree_ten_thousand_deep())
    with pytest.raises(DamagedPdf):
        compress(source, tmp_path / "small.pdf", level=Level.MEDIUM)


@pytest.mark.parametrize("name", ["photo", "office", "form", "scan-1bit", "scan-colour"])
def test_a_real_document_is_far_from_the_limits(
    name: str, sample: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bombs, "_ALWAYS", 0)
    compress(sample(name), tmp_path / "small.pdf", level=Level.MEDIUM)


def test_a_damaged_stream_is_no_bomb(tmp_path: Path) -> None:
    entries = b"/Filter /RunLengthDecode " + hostile.RGB
    images = [hostile.image(b"\x7fcut off", 40, 40 + each, entries) for each in range(9)]
    source = tmp_path / "damaged.pdf"
    source.write_bytes(hostile.page(b"/X Do", *images, hostile.padding()))
    assert compress(source, tmp_path / "small.pdf", level=Level.MEDIUM).changed


def test_a_font_whose_tables_lie_on_each_other_is_not_written() -> None:
    program = bytearray(hostile.truetype())
    for entry in range(struct.unpack_from(">H", program, 4)[0]):
        struct.pack_into(">II", program, 20 + 16 * entry, 0, len(program))
    with pytest.raises(ValueError, match="overlap"):
        truetype.emptied(bytes(program), {1}, codes=set(), names=set(), encoded=True)


def test_widths_that_are_not_there_are_not_made_up() -> None:
    program = hostile.truetype(hmtx=bytes(8), glyf=b"", loca=bytes(4 * 65_536))
    smaller = truetype.emptied(program, {1}, codes=set(), names=set(), encoded=True)
    assert len(smaller) <= len(program)
