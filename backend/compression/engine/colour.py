"""What is needed of colour spaces to store an image's samples in another way (ISO 32000-2, 8.6)."""

from dataclasses import dataclass

from pikepdf import Array, Name, Object, Stream, String

_DEVICE = {"/DeviceGray": 1, "/DeviceRGB": 3, "/DeviceCMYK": 4}
# Tables have at most a kilobyte.
_TABLE_BYTES_MAX = 4096
_CALIBRATED = {"/CalGray": 1, "/CalRGB": 3, "/Separation": 1}


@dataclass(frozen=True, slots=True)
class Palette:
    """An /Indexed colour space, with a full table of 256 colours of `components` bytes each."""

    base: Object
    components: int
    table: bytes


def components_of(space: Object | None) -> int | None:
    """How many components a sample has: 1, 3 or 4; None for a space that is best left alone.

    Samples are only ever stored in another way, never converted, so that any space will do whose
    components vary smoothly. Indexed and Lab do not.
    """
    if isinstance(space, Name):
        return _DEVICE.get(str(space))
    if not isinstance(space, Array) or len(space) < 2:
        return None
    family = str(space[0])
    if family == "/ICCBased" and isinstance(space[1], Stream):
        count = space[1].get_int(Name.N, 0)
        return count if count in {1, 3, 4} else None
    return _CALIBRATED.get(family)


def palette_of(space: Object | None) -> Palette | None:
    """The palette of an /Indexed space whose colours are gray or RGB, else None."""
    if not isinstance(space, Array) or len(space) != 4 or space[0] != Name.Indexed:
        return None
    base, lookup = space[1], space[3]
    count = components_of(base)
    if count not in {1, 3} or not isinstance(lookup, Stream | String):
        return None
    if isinstance(lookup, Stream) and len(lookup.get_raw_stream_buffer()) > _TABLE_BYTES_MAX:
        return None
    table = lookup.read_bytes() if isinstance(lookup, Stream) else bytes(lookup)
    used = min(256, int(space[2]) + 1)
    table = table[: used * count].ljust(used * count, b"\0")
    # An index past the last colour means the last colour.
    return Palette(base, count, table + table[-count:] * (256 - used))
