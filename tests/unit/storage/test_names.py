"""Names that people give: refused when they lead elsewhere, and made to stand side by side."""

import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import InvalidInput
from backend.storage.names import LONGEST_PART, checked_name, unique_names

LONG = "n" * (LONGEST_PART - 4) + ".pdf"


@pytest.mark.parametrize(
    ("given_names", "made"),
    [
        (["a.pdf", "A.pdf", "a.PDF"], ["a.pdf", "A (2).pdf", "a (3).PDF"]),
        (["a.pdf", "a.pdf/b.pdf"], ["a.pdf", "a (2).pdf/b.pdf"]),
        (["a.pdf/b.pdf", "a.pdf", "A.pdf/c.pdf"], ["a.pdf/b.pdf", "a (2).pdf", "A.pdf/c.pdf"]),
        (["a.pdf", "a.pdf/b", "a.pdf/c"], ["a.pdf", "a (2).pdf/b", "a (2).pdf/c"]),
        (["report.csv", "report.csv/z.pdf"], ["report.csv", "report (2).csv/z.pdf"]),
        (
            ["CON.pdf", "nul", "com1.a.pdf", "console"],
            ["_CON.pdf", "_nul", "_com1.a.pdf", "console"],
        ),
        (["a?.pdf", "a*.pdf", "dots. ./x."], ["a_.pdf", "a_ (2).pdf", "dots/x"]),
        ([LONG, LONG], [LONG, LONG[: LONGEST_PART - 8] + " (2).pdf"]),
        ([".pdf", ".pdf"], [".pdf", ".pdf (2)"]),
    ],
)
def test_names_are_made_unique_and_safe(given_names: list[str], made: list[str]) -> None:
    assert unique_names(given_names) == made


PARTS = st.sampled_from(["a.pdf", "A.pdf", "b", "a (2).pdf", "é" * 120 + ".pdf", "AUX", "x:y"])


@given(st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), max_size=12))
def test_any_names_can_be_unpacked_beside_one_another(names: list[str]) -> None:
    made = unique_names(names)

    assert len({name.casefold() for name in made}) == len(names)
    files = {PurePosixPath(name.casefold()) for name in made}
    assert not any(parent in files for name in files for parent in name.parents)
    assert all(len(part.encode()) <= LONGEST_PART for name in made for part in name.split("/"))


def test_an_archive_of_such_names_unpacks(tmp_path: Path) -> None:
    names = unique_names(["a.pdf", "a.pdf/b.pdf", LONG, LONG, "ü" * 127, "ü" * 127])
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for name in names:
            archive.writestr(name, name)
    with zipfile.ZipFile(tmp_path / "archive.zip") as archive:
        archive.extractall(tmp_path / "out")
    assert all((tmp_path / "out" / name).read_text() == name for name in names)


@pytest.mark.parametrize(
    "name", ["../a", "/a", "C:/a", "a/../b", "", ".", "a\0b", "a\u202eb", "x" * 256]
)
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"^files\.3: "):
        checked_name(name, "files.3")
