"""A program that compresses PDFs by Sluice's engine: `ours.py LEVEL QUALITY IN OUT [IN OUT …]`.

It answers each file by a line of JSON, with the seconds that it took and why it was refused, if it
was. One file is how a rival is run, many are what a worker does.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from backend.compression.engine import Level, compress
from backend.errors import InvalidInput


def main(level: str, quality: str, *paths: str) -> int:
    """Compress the files; return 1 when one was refused."""
    refused = 0
    for source, target in zip(paths[::2], paths[1::2], strict=True):
        error, began = None, time.perf_counter()
        try:
            compress(Path(source), Path(target), level=Level(level), image_quality=int(quality))
        except InvalidInput as problem:
            error, refused = str(problem), 1
        answer = {"wall": time.perf_counter() - began, "error": error}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return refused


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
