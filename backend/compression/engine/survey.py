"""How large each image is drawn, and what each font shows, from the content streams that do it.

What matters of an image is its pixels per inch as placed, and of a font the characters that are
shown in it (ISO 32000-2, 8.3, 8.10 and 9.4). So every content stream is followed: pages, form
XObjects at any depth, tiling patterns, soft mask groups, the glyphs of Type 3 fonts and annotation
appearances.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from pikepdf import Array, Dictionary, Name, Object, Page, Stream

from backend.compression.engine.errors import MALFORMED
from backend.compression.engine.tokens import Operation, operations

# The linear part a b c d of a matrix; where something stands does not matter here.
Linear = tuple[float, float, float, float]

ObjectId = tuple[int, int]

_UPRIGHT: Linear = (1.0, 0.0, 0.0, 1.0)
_BOUNDLESS: Linear = (1e9, 0.0, 0.0, 1e9)
_NESTING_MAX = 12
# Forms that draw forms that draw forms multiply quickly: past this, nothing is known. So many take
# some six seconds, to which a content adds by its length and by being drawn at all.
_OPERATIONS_MAX = 3_000_000
_BYTES_AN_OPERATION = 64
_OPERATIONS_A_CONTENT = 20


@dataclass(frozen=True, slots=True)
class Placement:
    """The largest size at which an image is drawn, in points of 1/72 inch."""

    width: float
    height: float


@dataclass(slots=True)
class Survey:
    """What is known of what a document draws.

    `placements` has the largest placement of every image that is drawn on some page. Soft masks
    count as placed where their image is. An image that is missing is not drawn by anything that
    could be followed. `shown` has, by the font's object, the strings that are shown in it, as they
    are written. `complete` says that everything could be followed, so that a font shows no more.
    """

    placements: dict[ObjectId, Placement] = field(default_factory=dict)
    shown: dict[ObjectId, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    complete: bool = True


@dataclass(frozen=True, slots=True)
class _State:
    """What of the graphics state is of interest here. The font may be unknown, or none yet."""

    ctm: Linear
    font: Object | None = None


class _TooMuch(Exception):
    """The document draws more than is worth following."""


def survey(pages: Iterable[Page], operations_max: int = _OPERATIONS_MAX) -> Survey:
    """Follow all that some pages draw. When it is too much to follow, nothing is known."""
    surveyor = _Surveyor(operations_max)
    try:
        for page in pages:
            surveyor.visit(page)
    except _TooMuch:
        return Survey(complete=False)
    return surveyor.found


class _Surveyor:
    """Follows content streams, and keeps what it finds."""

    def __init__(self, operations_max: int) -> None:
        self.found = Survey()
        self._operations: dict[ObjectId, list[Operation]] = {}
        self._glyphs_of: set[ObjectId] = set()
        self._left = operations_max

    def visit(self, page: Page) -> None:
        unit = page.obj.get_float(Name.UserUnit, 1.0) or 1.0
        upright: Linear = (unit, 0.0, 0.0, unit)
        resources = page.obj.get(Name.Resources)
        try:
            if _draws_objects(resources):
                self._follow(page.obj, resources, _State(upright), 0)
        except MALFORMED:
            self.found.complete = False  # what was found so far on this page stands
        try:
            for appearance, matrix in _appearances(page.obj, self._spend):
                # One without resources takes the page's, as a form does.
                self._form(appearance, resources, _State(_concatenate(matrix, upright)), 0)
        except MALFORMED:
            self.found.complete = False

    def _follow(
        self, content: Object, resources: Object | None, state: _State, nesting: int
    ) -> None:
        if nesting > _NESTING_MAX:
            raise _TooMuch
        self._spend(_OPERATIONS_A_CONTENT)
        self._patterns(resources, state, nesting)
        stack = [state]
        for operator, operand in self._parsed(content):
            self._spend(1)
            if operator == b"q":
                stack.append(stack[-1])
            elif operator == b"Q":
                stack[-1:] = [] if len(stack) > 1 else [state]
            elif isinstance(operand, tuple):
                now = stack[-1]
                if len(operand) == 6:
                    stack[-1] = _State(_concatenate(_four(operand), now.ctm), now.font)
            elif isinstance(operand, frozenset):
                self._show(stack[-1].font, operand)
            elif operator == b"Tf":
                font = _resource(resources, Name.Font, str(operand))
                stack[-1] = _State(stack[-1].ctm, font)
                self._glyphs(font, resources, stack[-1], nesting)
            elif operator == b"gs":
                stack[-1] = self._set(str(operand), resources, stack[-1], nesting)
            else:
                self._draw(str(operand), resources, stack[-1], nesting)

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise _TooMuch

    def _show(self, font: Object | None, strings: frozenset[bytes]) -> None:
        if font is None or not font.is_indirect:
            self.found.complete = False  # an error, or a font that has no name to be found by
        else:
            self.found.shown[font.objgen] |= strings

    def _set(self, name: str, resources: Object | None, state: _State, nesting: int) -> _State:
        parameters = _resource(resources, Name.ExtGState, name)
        if not isinstance(parameters, Dictionary):
            return state
        mask, font = parameters.get(Name.SMask), parameters.get(Name.Font)
        group = mask.get(Name.G) if isinstance(mask, Dictionary) else None
        if isinstance(group, Stream):
            self._form(group, resources, state, nesting)
        if isinstance(font, Array) and len(font) == 2:
            state = _State(state.ctm, font[0])
            self._glyphs(font[0], resources, state, nesting)
        return state

    def _draw(self, name: str, resources: Object | None, state: _State, nesting: int) -> None:
        drawn = _resource(resources, Name.XObject, name)
        if not isinstance(drawn, Stream):
            return
        if drawn.get(Name.Subtype) == Name.Image:
            self._keep(drawn, state.ctm)
        else:
            self._form(drawn, resources, state, nesting)

    def _form(self, form: Stream, inherited: Object | None, state: _State, nesting: int) -> None:
        resources = form.get(Name.Resources) or inherited
        if _draws_objects(resources):
            ctm = _concatenate(_linear(form.get(Name.Matrix)), state.ctm)
            self._follow(form, resources, _State(ctm, state.font), nesting + 1)

    def _patterns(self, resources: Object | None, state: _State, nesting: int) -> None:
        patterns = resources.get(Name.Pattern) if isinstance(resources, Dictionary) else None
        if not isinstance(patterns, Dictionary):
            return
        for pattern in patterns.values():
            if isinstance(pattern, Stream):
                self._form(pattern, None, state, nesting)

    def _glyphs(
        self, font: Object | None, inherited: Object | None, state: _State, nesting: int
    ) -> None:
        """Follow what the glyphs of a Type 3 font draw, once."""
        if not isinstance(font, Dictionary) or font.objgen in self._glyphs_of:
            return
        procedures = font.get(Name.CharProcs)
        if not isinstance(procedures, Dictionary):
            return
        own = font.get(Name.Resources)
        if font.is_indirect and own is not None:
            self._glyphs_of.add(font.objgen)  # else they are what the page has
        resources = own or inherited
        # How large a glyph is drawn is for the font's matrix, its size and the text's to say: what
        # is in one counts as larger than anything.
        state = _State(_BOUNDLESS, state.font)
        for procedure in procedures.values():
            if isinstance(procedure, Stream) and _draws_objects(resources):
                self._follow(procedure, resources, state, nesting + 1)

    def _keep(self, image: Stream, ctm: Linear) -> None:
        a, b, c, d = ctm
        width, height = math.hypot(a, b), math.hypot(c, d)
        placements = self.found.placements
        for drawn in (image, image.get(Name.SMask)):
            if isinstance(drawn, Stream):
                before = placements.get(drawn.objgen, Placement(0.0, 0.0))
                placements[drawn.objgen] = Placement(
                    max(before.width, width), max(before.height, height)
                )

    def _parsed(self, content: Object) -> list[Operation]:
        """What a stream does; a form that is drawn a hundred times is read once."""
        known = self._operations.get(content.objgen)
        if known is None:
            said = _bytes_of(content, self._left * _BYTES_AN_OPERATION)
            self._spend(len(said) // _BYTES_AN_OPERATION)
            known = list(islice(operations(said), self._left + 1))
            if isinstance(content, Stream):
                self._operations[content.objgen] = known
        return known


def _bytes_of(content: Object, most: int) -> bytes:
    """The bytes of a stream, or of a page's, which may be several and no more than so many."""
    if isinstance(content, Stream):
        return content.read_bytes()
    streams = content.get(Name.Contents)
    if isinstance(streams, Stream):
        return streams.read_bytes()
    # Each ends what the one before it began, but for a token (ISO 32000-2, 7.8.2).
    each = streams if isinstance(streams, Array) else ()
    parts, length = [], 0
    for part in each:
        if isinstance(part, Stream):
            parts.append(part.read_bytes())
            length += len(parts[-1])
            if length > most:
                raise _TooMuch
    return b"\n".join(parts)


def _appearances(page: Object, spend: Callable[[int], None]) -> Iterator[tuple[Stream, Linear]]:
    """The appearance streams of a page's annotations, and how each is scaled into its box."""
    for annotation in page.get_list(Name.Annots) or []:
        spend(_OPERATIONS_A_CONTENT)
        if not isinstance(annotation, Dictionary):
            continue
        looks = annotation.get(Name.AP)
        if not isinstance(looks, Dictionary):
            continue
        for look in looks.values():
            streams = look.values() if type(look) is Dictionary else [look]
            for stream in streams:
                if isinstance(stream, Stream):
                    yield stream, _fit(stream, annotation.get(Name.Rect))


def _fit(appearance: Stream, box: Object | None) -> Linear:
    """Scale an appearance's /BBox, after its /Matrix, to /Rect (ISO 32000-2, 12.5.5)."""
    inner, outer = _extent(appearance.get(Name.BBox)), _extent(box)
    a, b, c, d = _linear(appearance.get(Name.Matrix))
    width = abs(a) * inner[0] + abs(c) * inner[1]
    height = abs(b) * inner[0] + abs(d) * inner[1]
    if not width or not height:
        return _UPRIGHT
    return (outer[0] / width, 0.0, 0.0, outer[1] / height)


def _extent(box: Object | None) -> tuple[float, float]:
    if not isinstance(box, Array) or len(box) != 4:
        return (0.0, 0.0)
    left, bottom, right, top = (float(edge) for edge in box)
    return (abs(right - left), abs(top - bottom))


def _draws_objects(resources: Object | None) -> bool:
    return isinstance(resources, Dictionary) and any(
        key in resources for key in (Name.XObject, Name.Pattern, Name.ExtGState, Name.Font)
    )


def _resource(resources: Object | None, kind: Name, name: str) -> Object | None:
    named = resources.get(kind) if isinstance(resources, Dictionary) else None
    return named.get(name) if isinstance(named, Dictionary) else None


def _linear(matrix: Object | None) -> Linear:
    if not isinstance(matrix, Array) or len(matrix) != 6:
        return _UPRIGHT
    return _four(tuple(float(matrix[index]) for index in range(6)))


def _four(matrix: tuple[float, ...]) -> Linear:
    a, b, c, d, _, _ = matrix
    return (a, b, c, d)


def _concatenate(inner: Linear, outer: Linear) -> Linear:
    a, b, c, d = inner
    e, f, g, h = outer
    return (a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)
