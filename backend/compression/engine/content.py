"""Writing content streams in fewer digits (ISO 32000-2, 7.8.2)."""

import re

from backend.compression.engine.tokens import INLINE, INLINE_OPEN, STRING, has_doubtful_image

_EDGE, _END = rb"(?<![^\0\s\[\]()<>{}])", rb"(?![^\0\s\[\]()<>{}/%])"
_PART = re.compile(
    rb"(?:(?:" + STRING + rb"|/[^\0\t\n\f\r ()<>\[\]{}/%]*+|%[^\r\n]*+"
    rb"|" + _EDGE + rb"(?:[-+.\d]++[\0\s]++){6}cm" + _END + rb"|" + INLINE + rb")[\0\s]*+)++"
    # What has no end is all the rest.
    rb"|(?:\(|" + INLINE_OPEN + rb").*+"
    rb"|" + _EDGE + rb"(?P<number>[+-]?\d{0,20}+\.\d{2,40}+)" + _END,
    re.DOTALL,
)
_WORTH_IT = re.compile(rb"\.\d{4}")
# Each number and each name of a longer content would be an object for a while.
LENGTH_MAX = 32 * 2**20


def rounded(content: bytes) -> bytes:
    """The same content with numbers of five significant digits, and of two decimals at least.

    So a place on a page moves by half a hundredth of a point at most, and one in the unit square
    of a matrix by half a hundred-thousandth of what that makes of it. Matrices themselves stay as
    they are: readers put images on whole pixels, and a thousandth of a point may be another one.
    """
    if len(content) > LENGTH_MAX or not _WORTH_IT.search(content):
        return content
    return content if has_doubtful_image(content) else _PART.sub(_short, content)


def _short(part: re.Match[bytes]) -> bytes:
    if part["number"] is None:
        return part[0]
    number = float(part["number"])
    size = abs(number)
    places = 5 if size < 1 else 4 if size < 10 else 3 if size < 100 else 2
    short = (b"%.*f" % (places, number)).rstrip(b"0").rstrip(b".")
    if short[:2] == b"0.":
        return short[1:]
    if short[:3] == b"-0.":
        return b"-" + short[2:]
    return b"0" if short == b"-0" else short
