"""What can be wrong with a PDF that is to be compressed."""

import struct
import zlib

import pikepdf
from PIL import Image

from backend.errors import InvalidInput


class NotAPdf(InvalidInput):
    """The bytes are something else than a PDF."""

    code = "not_a_pdf"


class NeedsPassword(InvalidInput):
    """The PDF opens with a password only, and none was given."""

    code = "needs_password"


class WrongPassword(InvalidInput):
    """The password that was given does not open the PDF."""

    code = "wrong_password"


class DamagedPdf(InvalidInput):
    """The PDF is too damaged to be opened, read or written again."""

    code = "damaged_pdf"


class NeedsMemory(InvalidInput):
    """Compressing the PDF takes more memory than one file may have."""

    code = "needs_memory"


class TooElaborate(InvalidInput):
    """The PDF unpacks to so much, or has so many objects, that it may have been made to."""

    code = "too_elaborate"


class QualityOutOfRange(InvalidInput, ValueError):
    """The image quality is not a whole number from 1 to 100."""

    code = "quality_out_of_range"


# What pikepdf raises at objects of the wrong type, and at streams that do not decode.
MALFORMED = (
    pikepdf.PikepdfError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)

# The same, and what Pillow and zlib raise at the bytes of one image or stream.
UNDECODABLE = (
    *MALFORMED,
    EOFError,
    MemoryError,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    struct.error,
    zlib.error,
)
