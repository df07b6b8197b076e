"""The few things in a content stream that matter here (ISO 32000-2, 7.8.2 and annex A).

Strings are told as they are written, so that a text that is shown a hundred times is decoded once,
and what is of no interest is stepped over.
"""

import re
from collections.abc import Iterator

# A literal string has balanced parentheses; deeper than this they do not occur.
_FLAT = rb"(?:[^()\\]++|\\.)*+"
STRING = rb"(?:\((?:[^()\\]++|\\.|\((?:[^()\\]++|\\.|\(" + _FLAT + rb"\))*+\))*+\)"
STRING += rb"|<[0-9A-Fa-f\s]*+>)"
# Nothing is tried twice, so that a content of such beginnings without ends takes no longer.
INLINE = rb"(?<![^\s])BI\s++(?=/)(?>.*?\sID\s)(?>.*?\sEI(?![^\s]))"
INLINE_OPEN = rb"(?<![^\s])BI\s"
_TOKEN = re.compile(
    rb"(?P<string>" + STRING + rb")"
    rb"|/(?P<name>[^\0\t\n\f\r ()<>\[\]{}/%]*+)"
    rb"|%[^\r\n]*+"
    rb"|(?P<inline>" + INLINE + rb")"
    rb"|(?<![^\0\s\])>}])(?P<operator>q|Q|cm|Do|gs|Tf|Tj|TJ|'|\"|BDC)(?![^\0\s\[(</%])"
    rb"|(?P<open>\(|" + INLINE_OPEN + rb")",
    re.DOTALL,
)
_INLINE = re.compile(INLINE, re.DOTALL)
_TEXT = bytes([9, 10, 12, 13, *range(32, 127)])
_TOLD_BY = 16  # bytes after an image
_SHOWING = {b"Tj", b"TJ", b"'", b'"'}

# An operator, and its operand: six numbers of cm, the name of Do, gs and Tf, what is shown by Tj
# and its like. q and Q have none.
Operation = tuple[bytes, tuple[float, ...] | str | frozenset[bytes] | None]


def has_doubtful_image(content: bytes) -> bool:
    """Whether an inline image may end later than where it seems to, as what follows is no text.

    Nothing but its decoder knows where its data ends (ISO 32000-2, 8.9.7); so readers look too.
    """
    return any(
        content[image.end() : image.end() + _TOLD_BY].translate(None, _TEXT)
        for image in _INLINE.finditer(content)
    )


def operations(content: bytes) -> Iterator[Operation]:
    """What a content stream does to the matrix, what it draws, and what text it shows.

    The operators that show text come as `Tj`, with their strings as they are written. Raises
    ValueError where that cannot be told.
    """
    if has_doubtful_image(content):
        raise ValueError("an image within the content that may end elsewhere")
    name, strings, before = "", set[bytes](), 0
    for token in _TOKEN.finditer(content):
        kind = token.lastgroup
        if kind == "string":
            strings.add(token["string"])
        elif kind == "name":
            name = "/" + _plain(token["name"])
        elif kind == "open":
            raise ValueError("a string or an image without an end")
        elif kind == "operator":
            operator = token["operator"]
            if operator in _SHOWING:
                yield b"Tj", frozenset(strings)
            elif operator == b"cm":
                numbers = content[before : token.start()].rsplit(None, 6)[-6:]
                yield operator, tuple(float(each) for each in numbers)
            elif operator in {b"q", b"Q"}:
                yield operator, None
            elif operator != b"BDC":
                yield operator, name
            strings.clear()
        before = token.end()


def _plain(name: bytes) -> str:
    """A name without its #xx (ISO 32000-2, 7.3.5), as pikepdf has it."""
    if b"#" in name:
        name = re.sub(rb"#([0-9A-Fa-f]{2})", lambda code: bytes([int(code[1], 16)]), name)
    return name.decode("utf-8", "surrogateescape")
