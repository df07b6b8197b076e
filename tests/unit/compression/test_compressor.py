"""What somebody who compresses a file notices."""

import stat
from collections.abc import Callable
from pathlib import Path

import pikepdf
import pytest
from pikepdf import AttachedFileSpec, Name, OutlineItem
from PIL import Image

from backend.compression.engine import (
    DamagedPdf,
    Level,
    NeedsPassword,
    NotAPdf,
    QualityOutOfRange,
    SignedPolicy,
    WrongPassword,
    compress,
)
from backend.errors import AppError, InvalidInput

Sample = Callable[[str], Path]
Seen = Callable[..., list[Image.Image]]
Apart = Callable[[Image.Image, Image.Image], float]

WHOLE = ["scan-gray", "photo", "scan-1bit", "form", "office", "scan-colour", "encrypted"]


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Cancelled(BaseException):
    """A person has thought better of it."""


# How much smaller


@pytest.mark.parametrize(
    ("name", "at_most"),
    [
        ("photo", 0.15),
        ("scan-gray", 0.15),
        ("scan-1bit", 0.65),
        ("encrypted", 0.65),
        ("form", 0.80),
        ("office", 0.92),
    ],
)
def test_a_real_document_gets_much_smaller(
    name: str, at_most: float, sample: Sample, tmp_path: Path
) -> None:
    target = tmp_path / "small.pdf"
    done = compress(sample(name), target, level=Level.MEDIUM)
    assert done.changed
    assert done.original_bytes == sample(name).stat().st_size
    assert done.compressed_bytes == target.stat().st_size
    assert done.compressed_bytes <= at_most * done.original_bytes


def test_a_higher_level_gives_a_smaller_file(sample: Sample, tmp_path: Path) -> None:
    sizes = [
        compress(sample("photo"), tmp_path / level, level=level).compressed_bytes
        for level in (Level.LOSSLESS, Level.LOW, Level.MEDIUM, Level.HIGH)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


@pytest.mark.parametrize("name", ["scan-gray", "scan-colour", "scan-1bit", "office", "form"])
def test_no_stronger_level_gives_a_larger_file(name: str, sample: Sample, tmp_path: Path) -> None:
    sizes = [
        compress(sample(name), tmp_path / level, level=level).compressed_bytes for level in Level
    ]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("level", [Level.LOW, Level.MEDIUM, Level.HIGH])
def test_no_lower_quality_gives_a_larger_file(level: Level, sample: Sample, tmp_path: Path) -> None:
    sizes = [
        compress(
            sample("scan-colour"), tmp_path / "x.pdf", level=level, image_quality=quality
        ).compressed_bytes
        for quality in (100, 80, 60, 40, 20)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_a_lower_image_quality_gives_a_smaller_file(sample: Sample, tmp_path: Path) -> None:
    fine, coarse = (
        compress(
            sample("photo"), tmp_path / f"{quality}", level=Level.MEDIUM, image_quality=quality
        ).compressed_bytes
        for quality in (95, 30)
    )
    assert coarse < fine / 2


def test_compressing_again_changes_next_to_nothing(sample: Sample, tmp_path: Path) -> None:
    once, twice = tmp_path / "once.pdf", tmp_path / "twice.pdf"
    first = compress(sample("scan-gray"), once, level=Level.MEDIUM)
    second = compress(once, twice, level=Level.MEDIUM)
    assert first.compressed_bytes * 0.98 <= second.compressed_bytes <= first.compressed_bytes


def test_a_file_that_gets_no_smaller_is_kept_as_it_is(sample: Sample, tmp_path: Path) -> None:
    once, target = tmp_path / "once.pdf", tmp_path / "twice.pdf"
    compress(sample("scan-1bit"), once, level=Level.LOSSLESS)
    done = compress(once, target, level=Level.LOSSLESS)
    assert not done.changed
    assert done.note is not None
    assert "already small" in done.note
    assert target.read_bytes() == once.read_bytes()


# What is left of it


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(("level", "bound"), [(Level.LOSSLESS, 0.0), (Level.MEDIUM, 3.0)])
def test_every_page_looks_alike(
    name: str, level: Level, bound: float, sample: Sample, seen: Seen, apart: Apart, tmp_path: Path
) -> None:
    target = tmp_path / "small.pdf"
    done = compress(sample(name), target, level=level)
    before, after = seen(sample(name)), seen(target)
    assert len(after) == len(before) == done.after.inventory.pages
    assert max(apart(*pair) for pair in zip(before, after, strict=True)) <= bound


@pytest.mark.parametrize("level", [Level.LOW, Level.HIGH])
def test_a_photo_looks_alike_at_every_level(
    level: Level, sample: Sample, seen: Seen, apart: Apart, tmp_path: Path
) -> None:
    target = tmp_path / "small.pdf"
    compress(sample("photo"), target, level=level)
    assert apart(seen(sample("photo"))[0], seen(target)[0]) < 4


@pytest.mark.parametrize("name", ["office", "form", "encrypted", "scan-gray"])
def test_the_words_are_kept(
    name: str, sample: Sample, read: Callable[[Path], str], tmp_path: Path
) -> None:
    target = tmp_path / "small.pdf"
    compress(sample(name), target, level=Level.HIGH)
    assert read(target) == read(sample(name)) != ""


def test_outlines_attachments_fields_and_title_are_kept(sample: Sample, tmp_path: Path) -> None:
    source, target = tmp_path / "source.pdf", tmp_path / "small.pdf"
    with pikepdf.open(sample("form")) as pdf:
        with pdf.open_outline() as outline:
            outline.root.append(OutlineItem("Page two", 1))
        pdf.attachments["note.txt"] = AttachedFileSpec(pdf, b"a note" * 50, filename="note.txt")
        pdf.save(source)
        fields = len(pdf.Root.AcroForm.Fields)
        title = pdf.docinfo[Name.Title]
    assert compress(source, target, level=Level.HIGH).changed
    with pikepdf.open(target) as pdf:
        with pdf.open_outline() as outline:
            assert [item.title for item in outline.root] == ["Page two"]
        assert pdf.attachments["note.txt"].get_file().read_bytes() == b"a note" * 50
        assert len(pdf.Root.AcroForm.Fields) == fields
        assert pdf.docinfo[Name.Title] == title


def test_pdfa_1_gets_no_object_streams_and_keeps_its_metadata(
    sample: Sample, tmp_path: Path
) -> None:
    source, target = tmp_path / "source.pdf", tmp_path / "small.pdf"
    with pikepdf.open(sample("photo")) as pdf:
        with pdf.open_metadata(set_pikepdf_as_editor=False) as metadata:
            metadata["pdfaid:part"] = "1"
            metadata["pdfaid:conformance"] = "B"
        pdf.save(source)
    assert compress(source, target, level=Level.MEDIUM).changed
    assert b"/ObjStm" not in target.read_bytes()
    assert b"pdfaid:part" in target.read_bytes()
    with pikepdf.open(target) as pdf:
        assert pdf.open_metadata().pdfa_status == "1B"


def test_photos_become_jpeg_2000_without_loss_unless_the_document_is_an_archive(
    sample: Sample, seen: Seen, tmp_path: Path
) -> None:
    for claim, kind in ((None, Name.JPXDecode), ("2", Name.FlateDecode)):
        source, target = tmp_path / "source.pdf", tmp_path / "small.pdf"
        with pikepdf.open(sample("photo")) as pdf:
            if claim:
                with pdf.open_metadata(set_pikepdf_as_editor=False) as metadata:
                    metadata["pdfaid:part"] = claim
            pdf.save(source, compress_streams=False)
        compress(source, target, level=Level.LOSSLESS)
        with pikepdf.open(target) as pdf:
            (image,) = pdf.pages[0].Resources.XObject.values()
            assert image.Filter == kind
        assert seen(target)[0].tobytes() == seen(source)[0].tobytes()


# Signed and locked


def test_a_signed_document_is_left_byte_for_byte(sample: Sample, tmp_path: Path) -> None:
    target = tmp_path / "small.pdf"
    done = compress(sample("signed"), target, level=Level.HIGH)
    assert target.read_bytes() == sample("signed").read_bytes()
    assert done.before.inventory.signed
    assert not done.changed
    assert done.note is not None
    assert "signed" in done.note


def test_a_signed_document_is_changed_when_that_is_asked_for(
    sample: Sample, tmp_path: Path
) -> None:
    target = tmp_path / "small.pdf"
    done = compress(
        sample("signed"), target, level=Level.HIGH, signed=SignedPolicy.COPY_AND_INVALIDATE
    )
    assert done.changed
    assert done.before.inventory.signed
    assert done.note is not None
    assert "invalid" in done.note
    assert target.stat().st_size < sample("signed").stat().st_size


def test_an_encrypted_document_stays_encrypted_as_it_was(sample: Sample, tmp_path: Path) -> None:
    target = tmp_path / "small.pdf"
    done = compress(sample("encrypted"), target, level=Level.MEDIUM)
    assert done.after.inventory.encrypted
    assert done.changed
    with pikepdf.open(sample("encrypted")) as before, pikepdf.open(target) as after:
        assert after.allow == before.allow
        assert not after.allow.modify_other
        for key in (Name.O, Name.U, Name.P, Name.R, Name.V):
            assert after.trailer.Encrypt[key] == before.trailer.Encrypt[key]


@pytest.mark.parametrize("revision", [3, 4, 6])
@pytest.mark.parametrize("known", ["for-reading", "for-all"])
def test_both_passwords_still_open_a_document_that_either_opened(
    revision: int, known: str, sample: Sample, tmp_path: Path
) -> None:
    source, target = tmp_path / "source.pdf", tmp_path / "small.pdf"
    lock = pikepdf.Encryption(
        owner="for-all",
        user="for-reading",
        R=revision,
        aes=revision > 3,
        metadata=revision > 3,
        allow=pikepdf.Permissions(extract=False),
    )
    with pikepdf.open(sample("scan-gray")) as pdf:
        pdf.save(source, encryption=lock)
    done = compress(source, target, level=Level.MEDIUM, password=known)
    assert done.changed
    assert done.after.inventory.encrypted
    with pytest.raises(pikepdf.PasswordError):
        pikepdf.open(target)
    for password in ("for-reading", "for-all"):
        with pikepdf.open(target, password=password) as pdf:
            assert revision == pdf.encryption.R
            assert not pdf.allow.extract
            assert pdf.owner_password_matched == (password == "for-all")


def test_a_locked_document_needs_a_password(sample: Sample, tmp_path: Path) -> None:
    with pytest.raises(NeedsPassword, match="needs a password") as refusal:
        compress(sample("password"), tmp_path / "small.pdf", level=Level.MEDIUM)
    assert refusal.value.code == "needs_password"


def test_a_wrong_password_is_named_as_such(sample: Sample, tmp_path: Path) -> None:
    with pytest.raises(WrongPassword) as refusal:
        compress(sample("password"), tmp_path / "x", level=Level.MEDIUM, password="guess")
    assert refusal.value.code == "wrong_password"
    assert "guess" not in refusal.value.detail


def test_the_right_password_opens_a_locked_document(sample: Sample, tmp_path: Path) -> None:
    target = tmp_path / "small.pdf"
    done = compress(sample("password"), target, level=Level.MEDIUM, password="baz")
    assert done.after.inventory.encrypted
    assert done.after.inventory.pages == 1
    with pikepdf.open(target, password="baz") as pdf:
        assert pdf.is_encrypted


# Not to be compressed


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"PK\x03\x04 and so on", "ZIP"),
        (b"Dear all,\n", "no PDF header"),
        (b" " * 1024 + b"%PDF-1.4\n1 0 obj << >> endobj", "no PDF header"),
        (b"%PDF-1.7\nand then nothing of the kind\n%%EOF", "no objects"),
    ],
)
def test_something_else_than_a_pdf_is_refused(content: bytes, says: str, tmp_path: Path) -> None:
    source = tmp_path / "invoice.pdf"
    source.write_bytes(content)
    with pytest.raises(NotAPdf, match=says) as refusal:
        compress(source, tmp_path / "small.pdf", level=Level.MEDIUM)
    assert refusal.value.code == "not_a_pdf"


def test_a_broken_document_is_refused_without_a_path(sample: Sample, tmp_path: Path) -> None:
    with pytest.raises(DamagedPdf) as refusal:
        compress(sample("broken"), tmp_path / "small.pdf", level=Level.MEDIUM)
    assert refusal.value.code == "damaged_pdf"
    assert "/" not in refusal.value.detail
    assert "broken" not in refusal.value.detail


def test_a_document_without_pages_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source.pdf"
    pikepdf.new().save(source)
    with pytest.raises(DamagedPdf, match="no pages"):
        compress(source, tmp_path / "small.pdf", level=Level.MEDIUM)


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_a_quality_out_of_range_is_refused(quality: int, sample: Sample, tmp_path: Path) -> None:
    with pytest.raises(QualityOutOfRange, match=str(quality)) as refusal:
        compress(sample("photo"), tmp_path / "x", level=Level.LOSSLESS, image_quality=quality)
    assert isinstance(refusal.value, InvalidInput)


@pytest.mark.parametrize("name", ["broken", "password"])
def test_an_error_leaves_nothing_and_spares_what_was_there(
    name: str, sample: Sample, tmp_path: Path
) -> None:
    target = tmp_path / "small.pdf"
    with pytest.raises(AppError):
        compress(sample(name), target, level=Level.MEDIUM)
    assert names_in(tmp_path) == set()
    target.write_bytes(b"of yesterday")
    with pytest.raises(AppError):
        compress(sample(name), target, level=Level.MEDIUM)
    assert target.read_bytes() == b"of yesterday"
    assert names_in(tmp_path) == {"small.pdf"}


def test_a_repaired_document_says_so(sample: Sample, tmp_path: Path) -> None:
    source, target = tmp_path / "source.pdf", tmp_path / "small.pdf"
    whole = sample("scan-gray").read_bytes()
    source.write_bytes(whole[: whole.rindex(b"xref")])
    done = compress(source, target, level=Level.MEDIUM)
    assert done.changed
    assert done.note is not None
    assert "repaired" in done.note


# The file that is written


def test_only_the_owner_may_read_the_result(sample: Sample, tmp_path: Path) -> None:
    for name in ("scan-gray", "signed"):
        compress(sample(name), tmp_path / name, level=Level.MEDIUM)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert names_in(tmp_path) == {"scan-gray", "signed"}


def test_a_document_may_be_compressed_onto_itself(sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "scan.pdf"
    path.write_bytes(sample("scan-gray").read_bytes())
    done = compress(path, path, level=Level.MEDIUM)
    assert path.stat().st_size == done.compressed_bytes < done.original_bytes


@pytest.mark.parametrize("level", [Level.LOSSLESS, Level.MEDIUM])
def test_the_same_input_gives_the_same_bytes(level: Level, sample: Sample, tmp_path: Path) -> None:
    one, other = tmp_path / "one.pdf", tmp_path / "other.pdf"
    compress(sample("office"), one, level=level)
    compress(sample("office"), other, level=level)
    assert one.read_bytes() == other.read_bytes()


# Progress and cancelling


@pytest.mark.parametrize("name", ["office", "signed", "encrypted"])
def test_progress_goes_from_0_to_1_and_never_back(
    name: str, sample: Sample, tmp_path: Path
) -> None:
    fractions: list[float] = []
    target = tmp_path / "small.pdf"
    compress(sample(name), target, level=Level.MEDIUM, progress=fractions.append)
    assert fractions[0] == 0.0
    assert fractions[-1] == 1.0
    assert fractions == sorted(fractions)


@pytest.mark.parametrize("error", [Cancelled, RuntimeError, pikepdf.PdfError, OSError, AppError])
@pytest.mark.parametrize("at", [0.0, 0.1, 0.5, 0.95, 1.0])
def test_what_progress_raises_comes_out_and_nothing_is_left(
    error: type[BaseException], at: float, sample: Sample, tmp_path: Path
) -> None:
    raised = error("enough")

    def stop(fraction: float) -> None:
        if fraction >= at:
            raise raised

    with pytest.raises(error) as caught:
        compress(sample("office"), tmp_path / "small.pdf", level=Level.LOSSLESS, progress=stop)
    assert caught.value is raised
    assert names_in(tmp_path) == set()


def test_progress_is_called_for_every_stream(sample: Sample, tmp_path: Path) -> None:
    calls: list[float] = []
    compress(sample("form"), tmp_path / "x", level=Level.MEDIUM, progress=calls.append)
    with pikepdf.open(sample("form")) as pdf:
        streams = sum(isinstance(thing, pikepdf.Stream) for thing in pdf.objects)
    assert len(calls) > streams
