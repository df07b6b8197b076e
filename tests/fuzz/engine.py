"""Coverage-guided fuzzing of the engine, by atheris: python -m tests.fuzz.engine NAME [options].

A name is that of a parser below, or `whole`, which compresses without comparing. The options are
libFuzzer's, such as -max_total_time=60 and a folder of beginnings. What a parser may raise is what
its callers expect; all else is a finding, and its input is left in the current folder.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["backend.compression"]):
    from backend.compression.engine import (
        Level,
        SignedPolicy,
        ccitt,
        cff,
        compress,
        compressor,
        content,
        jbig2,
        profiles,
        tokens,
        truetype,
    )
    from backend.compression.engine.comparison import Comparison
    from backend.compression.engine.errors import UNDECODABLE
    from backend.errors import AppError

LENGTH_MAX = 4  # times what was read, and a kilobyte


def bounded(found: bytes, data: bytes) -> None:
    assert len(found) <= LENGTH_MAX * len(data) + 1024


def operations(data: bytes) -> None:
    for _ in tokens.operations(data):
        pass


def rounded(data: bytes) -> None:
    once = content.rounded(data)
    assert len(once) <= len(data)
    assert content.rounded(once) == once


def truetype_emptied(data: bytes) -> None:
    codes = set(data[:20])
    bounded(truetype.emptied(data, {1, 2}, codes=codes, names={"A", "g12"}, encoded=True), data)


def cff_emptied(data: bytes) -> None:
    assert len(cff.emptied(data, {1, 2, 3})) == len(data)


def slimmed(data: bytes) -> None:
    bounded(profiles.slimmed(data), data)


def fax(data: bytes) -> None:
    from pikepdf import Dictionary

    parameters = Dictionary(K=data[0] % 3 - 1, Columns=data[1] + 1, BlackIs1=bool(data[2] & 1))
    rows = ccitt.rows_of(data[3:], parameters, data[1] + 1, 64)
    assert rows is None or len(rows) == (data[1] + 8) // 8 * 64


def bitmap(data: bytes) -> None:
    width = data[0] * 8 + data[1] % 8 + 1
    stride = (width + 7) // 8
    height = (len(data) - 2) // stride
    if height:
        jbig2.encode(data[2 : 2 + stride * height], width, height)


def whole(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "source.pdf"), Path(name, "small.pdf")
        source.write_bytes(data)
        done = compress(source, target, level=Level.MEDIUM, signed=SignedPolicy.COPY_AND_INVALIDATE)
        assert target.stat().st_size == done.compressed_bytes <= len(data)


PARSERS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (operations, rounded, truetype_emptied, cff_emptied, slimmed, fax, bitmap, whole)
}


def main() -> None:
    parse = PARSERS[sys.argv.pop(1)]
    compressor.compare = lambda *_, **__: Comparison()  # type: ignore[assignment]

    def try_one(data: bytes) -> None:
        try:
            parse(data)
        except AppError:
            pass
        except UNDECODABLE:
            if parse is whole:
                raise

    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
