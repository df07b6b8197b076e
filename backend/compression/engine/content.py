"""Writing content streams in fewer digits (ISO 32000-2, 7.8.2)."""

import re

from backend.compression.engine.tokens import STRING

_EDGE, _END = rb"(?<![^\0\s\[\]()<>{}])", rb"(?![^\0\s\[\]()<>{}/%])"
_PART = re.compile(
    STRING + rb"|/[^\0\t\n\f\r ()<>\[\]{}/%]*+|%[^\r\n]*+"
    rb"|"
    + _EDGE
    + rb"(?:[-+.\d]++[\0\s]++){6}cm"
    + _END
    + rb"|(?<![^\s])BI\s.*?\sID\s.*?\sEI(?![^\s])"
    rb"|" + _EDGE + rb"(?P<sign>[+-]?)0*(?P<whole>\d*)\.(?P<decimals>\d{2,})" + _END,
    re.DOTALL,
)
_WORTH_IT = re.compile(rb"\.\d{4}")


def rounded(content: bytes) -> bytes:
    """The same content with numbers of five significant digits, and of two decimals at least.

    So a place on a page moves by half a hundredth of a point at most, and one in the unit square
    of a matrix by half a hundred-thousandth of what that makes of it. Matrices themselves stay as
    they are: readers put images on whole pixels, and a thousandth of a point may be another one.
    """
    return _PART.sub(_short, content) if _WORTH_IT.search(content) else content


def _short(part: re.Match[bytes]) -> bytes:
    decimals = part["decimals"]
    if decimals is None:
        return part[0]
    whole = part["whole"]
    places = max(2, 5 - len(whole))
    if len(decimals) > places:
        scale = 10 ** (len(decimals) - places)
        number = (2 * int(whole + decimals) + scale) // (2 * scale)
        digits = b"%0*d" % (places + 1, number)
        whole, decimals = digits[:-places].lstrip(b"0"), digits[-places:]
    decimals = decimals.rstrip(b"0")
    if not decimals:
        whole = whole or b"0"
        return b"0" if whole == b"0" else _minus(part) + whole
    return _minus(part) + whole + b"." + decimals


def _minus(part: re.Match[bytes]) -> bytes:
    return b"-" if part["sign"] == b"-" else b""
