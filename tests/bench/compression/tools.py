"""The tools that are measured: each a command that reads one PDF and writes another."""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

OURS = Path(__file__).with_name("ours.py")
LISTED = Path(__file__).with_name("rivals.txt")
REFERENCE = "gs-ebook"
WARM = "-warm"


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool's command, with `{in}`, `{out}` and `{bin}`, the folder of the rivals' environment.

    `needs` are the programs that must be on the PATH, `get` says how they get there, and `version`
    is the command that tells the version, or the name of a package in the rivals' environment.
    """

    title: str
    command: Sequence[str]
    needs: Sequence[str] = ()
    get: str = ""
    version: Sequence[str] | str = ()

    def line(self, environment: Path, source: Path, target: Path) -> list[str]:
        """The command line for a file."""
        given = {"{in}": source, "{out}": target, "{bin}": environment / "bin"}

        def filled(part: str) -> str:
            for name, path in given.items():
                part = part.replace(name, str(path))
            return part

        return list(map(filled, self.command))

    def missing(self) -> list[str]:
        """The programs that are not on the PATH."""
        return [name for name in self.needs if shutil.which(name) is None]


def _ghostscript(settings: str) -> Tool:
    options = ("-q", "-dNOPAUSE", "-dBATCH", "-dSAFER", "-sDEVICE=pdfwrite")
    return Tool(
        title=f"Ghostscript /{settings}",
        command=("gs", *options, f"-dPDFSETTINGS=/{settings}", "-sOutputFile={out}", "{in}"),
        needs=("gs",),
        get="apt-get install ghostscript",
        version=("gs", "--version"),
    )


_PIKEPDF = """
import sys, pikepdf
with pikepdf.open(sys.argv[1]) as pdf:
    pdf.remove_unreferenced_resources()
    packed = pikepdf.ObjectStreamMode.generate
    pdf.save(sys.argv[2], compress_streams=True, recompress_flate=True, object_stream_mode=packed)
"""
_PYMUPDF = """
import sys, pymupdf
pdf = pymupdf.open(sys.argv[1])
assert not pdf.needs_pass
pdf.rewrite_images(dpi_threshold=160, dpi_target=150, quality=75)
pdf.subset_fonts()
pdf.ez_save(sys.argv[2], garbage=4, clean=False)
"""
_PACKED = ("--object-streams=generate", "--recompress-flate", "--compression-level=9")
_NO_OCR = ("--ocr-engine", "none", "--skip-text", "--output-type", "pdf")

RIVALS: Mapping[str, Tool] = {
    "gs-screen": _ghostscript("screen"),
    "gs-ebook": _ghostscript("ebook"),
    "ocrmypdf": Tool(
        title="OCRmyPDF -O3",
        command=(
            *("{bin}/ocrmypdf", *_NO_OCR, "--optimize", "3", "--jobs", "2", "-q"),
            *("--invalidate-digital-signatures", "{in}", "{out}"),
        ),
        needs=("gs", "tesseract", "pngquant"),
        get="apt-get install ghostscript tesseract-ocr pngquant",
        version="ocrmypdf",
    ),
    "pymupdf": Tool(
        title="PyMuPDF, images and fonts",
        command=("{bin}/python", "-c", _PYMUPDF, "{in}", "{out}"),
        version="pymupdf",
    ),
    "qpdf": Tool(
        title="qpdf --optimize-images",
        command=("qpdf", "--warning-exit-0", *_PACKED, "--optimize-images", "{in}", "{out}"),
        needs=("qpdf",),
        get="apt-get install qpdf",
        version=("qpdf", "--version"),
    ),
    "pikepdf": Tool(
        title="pikepdf",
        command=("{bin}/python", "-c", _PIKEPDF, "{in}", "{out}"),
        version="pikepdf",
    ),
    "mutool": Tool(
        title="mutool clean",
        command=("mutool", "clean", "-gggg", "-z", "-f", "-i", "{in}", "{out}"),
        needs=("mutool",),
        get="apt-get install mupdf-tools",
        version=("mutool", "-v"),
    ),
    "cpdf": Tool(
        title="cpdf -squeeze",
        command=("cpdf", "-squeeze", "{in}", "-o", "{out}"),
        needs=("cpdf",),
        get="see https://community.coherentpdf.com",
        version=("cpdf", "-version"),
    ),
}


def ours(level: str, quality: int, way: str = "") -> Tool:
    """Sluice's engine at a level: in a process for each file, or `WARM` in one for all."""
    command = [sys.executable, str(OURS), level, str(quality)]
    if way == WARM:
        return Tool(title=f"Sluice {level}, warm", command=command)
    return Tool(title=f"Sluice {level}", command=[*command, "{in}", "{out}"])


def versions(names: Sequence[str]) -> dict[str, str]:
    """The versions of rivals, and of what the files are looked at with."""
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", LISTED.read_text(), re.MULTILINE))
    found = {each: pinned[each] for each in ("pypdfium2", "scikit-image")}
    for how in (RIVALS[name].version for name in names):
        if isinstance(how, str):
            found[how] = pinned[how]
        else:
            said = subprocess.run(how, capture_output=True, text=True, check=False)
            number = re.search(r"\d+\.\d+(\.\d+)?", said.stdout + said.stderr)
            found[how[0]] = number.group() if number else "unknown"
    return found | {"python": sys.version.split()[0]}
