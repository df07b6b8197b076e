"""The sample job: real PDFs through the running application."""

from pathlib import Path

from sluice_stack import ROOT

FILES = ("photo.pdf", "scan-gray.pdf", "scan-1bit.pdf", "office.pdf", "form.pdf")
FOLDER = ROOT / "tests/fixtures/pdf"


def paths() -> list[Path]:
    """The sample PDFs, each of which gets smaller."""
    return [FOLDER / name for name in FILES if (FOLDER / name).exists()]
