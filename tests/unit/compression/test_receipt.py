"""What the receipt says, and what it keeps from being handed on."""

import json
from collections.abc import Callable
from pathlib import Path

import pikepdf
import pytest
from pikepdf import AttachedFileSpec, Name, OutlineItem

from backend.compression.engine import Level, Receipt, SignedPolicy, compress, compressor, shrinking
from backend.compression.engine.comparison import compare
from backend.compression.engine.inventory import inventory_of
from backend.compression.engine.progress import Progress

Sample = Callable[[str], Path]


def silent(_fraction: float) -> None:
    """Hear of no progress."""


def test_the_receipt_is_plain_values(sample: Sample, tmp_path: Path) -> None:
    done = compress(sample("scan-gray"), tmp_path / "small.pdf", level=Level.MEDIUM)
    said = json.loads(json.dumps(done.as_dict()))
    assert said["original_bytes"] == sum(said["before"]["sizes"].values()) == 446834
    assert said["compressed_bytes"] == sum(said["after"]["sizes"].values())
    assert (tmp_path / "small.pdf").stat().st_size == said["compressed_bytes"]
    assert said["level"] == "medium"
    assert (said["pages"], said["images"], said["images_recoded"]) == (1, 1, 1)
    assert said["after"]["sizes"]["images"] < said["before"]["sizes"]["images"]
    assert said["similarity"]["pages_compared"] == 1
    assert said["similarity"]["text_equal"]
    assert 0.9 < said["similarity"]["worst"] < 1
    assert any("1 of 1 image stored" in sentence for sentence in said["done"])


def test_lossless_pages_are_the_same(sample: Sample, tmp_path: Path) -> None:
    done = compress(sample("office"), tmp_path / "small.pdf", level=Level.LOSSLESS)
    assert done.changed
    assert done.comparison is not None
    assert done.comparison.worst == 1.0
    assert done.before.inventory == done.after.inventory


@pytest.fixture
def losing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[pikepdf.Pdf], object]], None]:
    """Make the engine lose something of every document that it writes."""

    def lose(harm: Callable[[pikepdf.Pdf], object]) -> None:
        def shrink(
            pdf: pikepdf.Pdf, aim: shrinking.Aim | None, progress: Progress
        ) -> shrinking.Work:
            done = shrinking.shrink(pdf, aim, progress)
            harm(pdf)
            return done

        monkeypatch.setattr(compressor, "shrink", shrink)

    return lose


def blacken(pdf: pikepdf.Pdf) -> None:
    pdf.pages[0].contents_add(b"0 g 0 0 2000 2000 re f")


@pytest.fixture
def tagged(sample: Sample, tmp_path: Path) -> Path:
    """A document with a language, bookmarks and tags."""
    path = tmp_path / "tagged.pdf"
    with pikepdf.open(sample("office")) as pdf:
        pdf.Root.Lang = pikepdf.String("en")
        paragraph = pdf.make_indirect(pikepdf.Dictionary(S=Name.P))
        pdf.Root.StructTreeRoot = pdf.make_indirect(pikepdf.Dictionary(K=paragraph))
        with pdf.open_outline() as outline:
            outline.root.append(OutlineItem("One", 0))
        pdf.save(path)
    return path


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (blacken, "page 1 would have looked too different"),
        (lambda pdf: pdf.pages.__delitem__(0), "pages would have changed"),
        (lambda pdf: pdf.pages[0].__delitem__("/Contents"), "the text of page 1"),
        (lambda pdf: pdf.Root.__delitem__("/StructTreeRoot"), "tags would have changed"),
        (lambda pdf: pdf.Root.__delitem__("/Lang"), "the language would have changed"),
        (lambda pdf: pdf.Root.__delitem__("/Outlines"), "bookmarks would have changed"),
    ],
)
def test_what_is_lost_is_noticed_and_the_original_kept(
    harm: Callable[[pikepdf.Pdf], object],
    says: str,
    losing: Callable[..., None],
    tagged: Path,
    tmp_path: Path,
) -> None:
    target = tmp_path / "small.pdf"
    assert compress(tagged, target, level=Level.MEDIUM).changed
    losing(harm)
    done = compress(tagged, target, level=Level.MEDIUM)
    assert not done.changed
    assert target.read_bytes() == tagged.read_bytes()
    assert any(says in sentence for sentence in done.left), done.left
    assert done.note is not None
    assert "original was kept" in done.note


def test_a_level_that_changes_too_much_gives_way_to_a_gentler_one(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shrink(pdf: pikepdf.Pdf, aim: shrinking.Aim | None, progress: Progress) -> shrinking.Work:
        done = shrinking.shrink(pdf, aim, progress)
        if aim is not None and aim.dpi < 120:
            blacken(pdf)
        return done

    monkeypatch.setattr(compressor, "shrink", shrink)
    done = compress(sample("photo"), tmp_path / "small.pdf", level=Level.HIGH)
    assert done.changed
    assert done.level == Level.MEDIUM
    assert done.left[0].startswith("At the level high, page 1 would have looked too different")


# Wishes


def test_a_wished_size_is_met_by_the_gentlest_way(sample: Sample, tmp_path: Path) -> None:
    sizes = {
        level: compress(sample("photo"), tmp_path / level, level=level).compressed_bytes
        for level in Level
    }
    target = tmp_path / "small.pdf"
    for level in (Level.LOW, Level.MEDIUM, Level.HIGH):
        done = compress(sample("photo"), target, level=Level.LOW, target_bytes=sizes[level])
        assert (done.level, done.compressed_bytes) == (level, sizes[level])
    smaller = compress(
        sample("photo"), target, level=Level.LOW, target_bytes=sizes[Level.HIGH] * 3 // 4
    )
    assert smaller.compressed_bytes <= sizes[Level.HIGH] * 3 // 4


def test_a_size_that_cannot_be_met_is_named(sample: Sample, tmp_path: Path) -> None:
    done = compress(sample("photo"), tmp_path / "x", level=Level.LOW, target_bytes=1000)
    assert done.changed
    assert done.note is not None
    assert f"1000 bytes: {done.compressed_bytes} are the least" in done.note


def test_a_file_of_the_wished_size_is_kept(sample: Sample, tmp_path: Path) -> None:
    done = compress(sample("photo"), tmp_path / "x", level=Level.LOW, target_bytes=10**9)
    assert not done.changed


# Attachments


def attaching(folder: Path, outer: Path, files: dict[str, bytes]) -> Path:
    path = folder / "outer.pdf"
    with pikepdf.open(outer) as pdf:
        for name, content in files.items():
            pdf.attachments[name] = AttachedFileSpec(pdf, content, filename=name)
        pdf.save(path)
    return path


def attached(path: Path) -> dict[str, bytes]:
    with pikepdf.open(path) as pdf:
        return {name: spec.get_file().read_bytes() for name, spec in pdf.attachments.items()}


def test_attached_pdfs_are_compressed_on_request(sample: Sample, tmp_path: Path) -> None:
    files = {
        "photo.pdf": sample("photo").read_bytes(),
        "signed.pdf": sample("signed").read_bytes(),
        "locked.pdf": sample("password").read_bytes(),
        "words.txt": b"words " * 1000,
    }
    outer = attaching(tmp_path, sample("office"), files)
    target = tmp_path / "small.pdf"

    done = compress(outer, target, level=Level.MEDIUM)
    assert attached(target) == files
    assert done.before.inventory.attachments == done.after.inventory.attachments

    smaller = compress(outer, target, level=Level.MEDIUM, attachments=True)
    kept = attached(target)
    assert len(kept.pop("photo.pdf")) < len(files.pop("photo.pdf")) / 4
    assert kept == files
    assert smaller.compressed_bytes < done.compressed_bytes
    assert any("The attached photo.pdf made smaller" in sentence for sentence in smaller.done)
    with pikepdf.open(target) as pdf:
        parameters = pdf.attachments["photo.pdf"].get_file().obj.Params
        assert parameters.Size == len(attached(target)["photo.pdf"])


def test_a_lost_attachment_is_noticed(
    losing: Callable[..., None], sample: Sample, tmp_path: Path
) -> None:
    outer = attaching(tmp_path, sample("office"), {"words.txt": b"words"})
    losing(lambda pdf: pdf.attachments.__delitem__("words.txt"))
    for attachments in (False, True):
        done: Receipt = compress(
            outer, tmp_path / "x.pdf", level=Level.MEDIUM, attachments=attachments
        )
        assert not done.changed
        assert any("attachments would have changed" in sentence for sentence in done.left)


# Inventories and comparisons


def test_an_inventory_counts_what_a_reader_would_miss(sample: Sample) -> None:
    with pikepdf.open(sample("form")) as pdf:
        assert inventory_of(pdf).form_fields > 0
        assert inventory_of(pdf).annotations > 0
    with pikepdf.open(sample("signed")) as pdf:
        assert inventory_of(pdf).signed
    with pikepdf.open(sample("encrypted")) as pdf:
        assert inventory_of(pdf).encrypted
        assert "modify_other" not in inventory_of(pdf).permissions
        assert "extract" in inventory_of(pdf).permissions


def test_trees_that_bite_their_tails_are_counted_once(sample: Sample) -> None:
    with pikepdf.open(sample("office")) as pdf:
        paragraph = pdf.make_indirect(pikepdf.Dictionary(S=Name.P))
        paragraph.K = pikepdf.Array([paragraph, 3])
        pdf.Root.StructTreeRoot = pdf.make_indirect(pikepdf.Dictionary(K=paragraph))
        entry = pdf.make_indirect(pikepdf.Dictionary(Title="loop"))
        entry.Next = entry
        pdf.Root.Outlines = pdf.make_indirect(pikepdf.Dictionary(First=entry, Type=Name.Outlines))
        found = inventory_of(pdf)
    assert (found.outline, found.tags) == (1, 1)


def test_a_document_is_like_itself_and_not_like_another(sample: Sample) -> None:
    same = compare(sample("office"), sample("office"), None, seconds=60, progress=silent)
    assert (same.worst, same.mean, same.problem) == (1.0, 1.0, None)
    other = compare(sample("photo"), sample("scan-gray"), None, seconds=60, progress=silent)
    assert other.worst is not None
    assert other.worst < 0.5
    assert other.text_changed == [1]


def test_what_cannot_be_rendered_is_a_problem_and_the_next_is_compared(
    sample: Sample, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.7 and nothing else")
    seen = compare(sample("photo"), broken, None, seconds=60, progress=silent)
    assert seen.problem is not None
    assert "the smaller file cannot be rendered" in seen.problem
    assert compare(sample("photo"), sample("photo"), None, seconds=60, progress=silent).worst == 1


def test_a_signature_that_is_given_up_is_said(sample: Sample, tmp_path: Path) -> None:
    done = compress(
        sample("signed"),
        tmp_path / "x.pdf",
        level=Level.MEDIUM,
        signed=SignedPolicy.COPY_AND_INVALIDATE,
    )
    assert done.changed
    assert done.note is not None
    assert "invalid" in done.note
