"""Whatever happened to a file on its way here, it is compressed or refused in words."""

import random
import re
import tempfile
from collections.abc import Callable
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
        assert {path.name for path in folder.iterdir()} == {"source.pdf", "small.pdf"}
        assert source.read_bytes() == content
        assert target.stat().st_size <= len(content)
        locked = "baz" if done.after.inventory.encrypted else ""
        with (
            pikepdf.open(target, password=locked) as pdf,
            pikepdf.open(source, password=locked) as o,
        ):
            assert len(pdf.pages) == len(o.pages) == done.after.inventory.pages > 0


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


# Three hundred files of a fuzzer, the same each time

OBJECT = re.compile(rb"\d+ 0 obj\b.*?endobj", re.DOTALL)
STREAM = re.compile(rb"(?<=stream\n).*?(?=endstream)", re.DOTALL)
KEY = re.compile(rb"/[A-Z]\w+")
NUMBER = re.compile(rb"(?<=[ \[])\d+(?=[ \]/>])")
KEYS = [
    b"/Kids",
    b"/Parent",
    b"/Type",
    b"/Length",
    b"/Filter",
    b"/Resources",
    b"/SMask",
    b"/XObject",
]
NUMBERS = [b"0", b"-1", b"1", b"3", b"65536", b"2147483648", b"99999999999", b"1e9", b"/A", b"<<>>"]

Mutation = Callable[[bytes, random.Random], bytes]


def bits_flipped(content: bytes, dice: random.Random) -> bytes:
    spoiled = bytearray(content)
    for _ in range(dice.choice([1, 3, 30, 300])):
        spoiled[dice.randrange(len(spoiled))] ^= 1 << dice.randrange(8)
    return bytes(spoiled)


def cut_off(content: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(content))
    return content[:start] + content[start + dice.choice([1, 100, 10_000, len(content)]) :]


def _swapped(content: bytes, dice: random.Random, parts: re.Pattern[bytes]) -> bytes:
    found = list(parts.finditer(content))
    if len(found) < 2:
        return bits_flipped(content, dice)
    one, other = sorted(dice.sample(found, 2), key=lambda each: each.start())
    between = content[one.end() : other.start()]
    return b"".join([content[: one.start()], other[0], between, one[0], content[other.end() :]])


def objects_swapped(content: bytes, dice: random.Random) -> bytes:
    return _swapped(content, dice, OBJECT)


def streams_swapped(content: bytes, dice: random.Random) -> bytes:
    return _swapped(content, dice, STREAM)


def objects_doubled(content: bytes, dice: random.Random) -> bytes:
    found = list(OBJECT.finditer(content))
    if not found:
        return bits_flipped(content, dice)
    one, place = dice.choice(found), dice.choice(found).end()
    return content[:place] + b"\n" + one[0] + b"\n" + content[place:]


def _changed(
    content: bytes, dice: random.Random, parts: re.Pattern[bytes], others: list[bytes]
) -> bytes:
    found = list(parts.finditer(content))
    for each in sorted(dice.sample(found, min(len(found), 5)), key=lambda each: -each.start()):
        content = content[: each.start()] + dice.choice(others) + content[each.end() :]
    return content


def keys_changed(content: bytes, dice: random.Random) -> bytes:
    return _changed(content, dice, KEY, KEYS)


def numbers_changed(content: bytes, dice: random.Random) -> bytes:
    return _changed(content, dice, NUMBER, NUMBERS)


MUTATIONS: list[Mutation] = [
    bits_flipped,
    cut_off,
    objects_swapped,
    streams_swapped,
    objects_doubled,
    keys_changed,
    numbers_changed,
]


def plain(content: bytes) -> bytes:
    """The same document without object streams, so that its objects can be got at."""
    with tempfile.TemporaryDirectory() as name:
        path, written = Path(name, "a.pdf"), Path(name, "b.pdf")
        path.write_bytes(content)
        with pikepdf.open(path) as pdf:
            pdf.save(written, object_stream_mode=pikepdf.ObjectStreamMode.disable)
        return written.read_bytes()


PLAIN = {name: plain(SMALL[name]) for name in ("scan-1bit", "signed")}


@pytest.mark.parametrize("seed", range(300))
def test_what_a_fuzzer_makes_of_a_file(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - for the same files each time
    mutation = MUTATIONS[seed % len(MUTATIONS)]
    content = dice.choice([*PLAIN.values(), SMALL["password"], SMALL["broken"]])
    for _ in range(dice.choice([1, 1, 2, 4])):
        content = mutation(content, dice)
    compressed_or_refused(content)
