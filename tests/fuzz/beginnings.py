"""What the fuzzing of a parser begins with: python -m tests.fuzz.beginnings FOLDER.

The streams of the sample documents, each in the folder of who reads its like.
"""

import hashlib
import sys
from pathlib import Path

import pikepdf
from pikepdf import Dictionary, Name, Stream

SAMPLES = Path(__file__).parents[1] / "fixtures" / "pdf"
LENGTH_MAX = 100_000


def readers_of(pdf: pikepdf.Pdf) -> dict[tuple[int, int], list[str]]:
    found = {
        page.obj.Contents.objgen: ["operations", "rounded"]
        for page in pdf.pages
        if isinstance(page.obj.get(Name.Contents), Stream)
    }
    for thing in pdf.objects:
        if isinstance(thing, Dictionary):
            for key, reader in (
                (Name.FontFile2, "truetype_emptied"),
                (Name.FontFile3, "cff_emptied"),
            ):
                if key in thing:
                    found[thing[key].objgen] = [reader]
        if isinstance(thing, Stream) and Name.N in thing and Name.Type not in thing:
            found[thing.objgen] = ["slimmed"]
    return found


def main(folder: Path) -> None:
    for sample in SAMPLES.glob("*.pdf"):
        try:
            pdf = pikepdf.open(sample)
        except (pikepdf.PasswordError, pikepdf.PdfError):
            continue
        for objgen, readers in readers_of(pdf).items():
            data = pdf.get_object(objgen).read_bytes()
            for reader in readers:
                path = folder / reader / hashlib.sha256(data).hexdigest()[:16]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data[:LENGTH_MAX])
        if sample.stat().st_size < LENGTH_MAX:
            path = folder / "whole" / sample.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sample.read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
