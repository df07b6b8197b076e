"""How large each image is drawn, from the content streams that draw it (ISO 32000-2, 8.3 and 8.10).

The resolution that matters is pixels per inch as placed. So every content stream is followed:
pages, form XObjects at any depth, tiling patterns, soft mask groups and annotation appearances.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pikepdf
from pikepdf import Array, Dictionary, Name, Object, Page, Pdf, Stream

from backend.compression.engine.errors import MALFORMED
from backend.compression.engine.progress import Progress

# The linear part a b c d of a matrix; where something stands does not matter here.
Linear = tuple[float, float, float, float]
Operation = tuple[str, Linear | str | None]

ObjectId = tuple[int, int]

_UPRIGHT: Linear = (1.0, 0.0, 0.0, 1.0)
_NESTING_MAX = 12
# Forms that draw forms that draw forms multiply quickly: past this, nothing is known. A million
# takes some ten seconds.
_OPERATIONS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Placement:
    """The largest size at which an image is drawn, in points of 1/72 inch."""

    width: float
    height: float


class _TooMuch(Exception):
    """The document draws more than is worth following."""


def survey(pdf: Pdf, progress: Progress, start: float, end: float) -> dict[ObjectId, Placement]:
    """The largest placement of every image that is drawn on some page, by object id.

    Soft masks count as placed where their image is. An image that is missing here is not drawn
    by anything that could be followed, so its resolution is unknown. When there is too much to
    follow, nothing is known about any image.
    """
    surveyor = _Surveyor()
    try:
        for page in progress.over(list(pdf.pages), start, end):
            surveyor.visit(page)
    except _TooMuch:
        return {}
    return surveyor.found


class _Surveyor:
    """Follows content streams and keeps the largest placement of each image."""

    def __init__(self) -> None:
        self.found: dict[ObjectId, Placement] = {}
        self._operations: dict[ObjectId, list[Operation]] = {}
        self._left = _OPERATIONS_MAX

    def visit(self, page: Page) -> None:
        unit = page.obj.get_float(Name.UserUnit, 1.0) or 1.0
        upright: Linear = (unit, 0.0, 0.0, unit)
        try:
            resources = page.obj.get(Name.Resources)
            if _draws_objects(resources):
                self._follow(page.obj, resources, upright, 0)
            for appearance, matrix in _appearances(page.obj):
                self._form(appearance, None, _concatenate(matrix, upright), 0)
        except MALFORMED:
            return  # what was found so far on this page stands

    def _follow(self, content: Object, resources: Object | None, ctm: Linear, nesting: int) -> None:
        if nesting > _NESTING_MAX:
            raise _TooMuch
        self._patterns(resources, ctm, nesting)
        stack = [ctm]
        for operator, operand in self._parsed(content):
            self._left -= 1
            if self._left < 0:
                raise _TooMuch
            if operator == "q":
                stack.append(stack[-1])
            elif operator == "Q":
                stack[-1:] = [] if len(stack) > 1 else [ctm]
            elif operator == "cm" and isinstance(operand, tuple):
                stack[-1] = _concatenate(operand, stack[-1])
            elif isinstance(operand, str):
                self._draw(operator, operand, resources, stack[-1], nesting)

    def _draw(
        self, operator: str, name: str, resources: Object | None, ctm: Linear, nesting: int
    ) -> None:
        if operator == "gs":
            state = _resource(resources, Name.ExtGState, name)
            mask = state.get(Name.SMask) if isinstance(state, Dictionary) else None
            drawn = mask.get(Name.G) if isinstance(mask, Dictionary) else None
        else:
            drawn = _resource(resources, Name.XObject, name)
        if not isinstance(drawn, Stream):
            return
        if drawn.get(Name.Subtype) == Name.Image:
            self._keep(drawn, ctm)
        else:
            self._form(drawn, resources, ctm, nesting)

    def _form(self, form: Stream, inherited: Object | None, ctm: Linear, nesting: int) -> None:
        resources = form.get(Name.Resources) or inherited
        if _draws_objects(resources):
            matrix = _linear(form.get(Name.Matrix))
            self._follow(form, resources, _concatenate(matrix, ctm), nesting + 1)

    def _patterns(self, resources: Object | None, ctm: Linear, nesting: int) -> None:
        patterns = resources.get(Name.Pattern) if isinstance(resources, Dictionary) else None
        if not isinstance(patterns, Dictionary):
            return
        for pattern in patterns.values():
            if isinstance(pattern, Stream):
                self._form(pattern, None, ctm, nesting)

    def _keep(self, image: Stream, ctm: Linear) -> None:
        a, b, c, d = ctm
        width, height = math.hypot(a, b), math.hypot(c, d)
        for drawn in (image, image.get(Name.SMask)):
            if isinstance(drawn, Stream):
                before = self.found.get(drawn.objgen, Placement(0.0, 0.0))
                self.found[drawn.objgen] = Placement(
                    max(before.width, width), max(before.height, height)
                )

    def _parsed(self, content: Object) -> list[Operation]:
        """What a stream draws; a form that is drawn a hundred times is parsed once."""
        known = self._operations.get(content.objgen)
        if known is None:
            known = list(_operations(content))
            if isinstance(content, Stream):
                self._operations[content.objgen] = known
        return known


def _operations(content: Object) -> Iterator[Operation]:
    for instruction in pikepdf.parse_content_stream(content, "q Q cm Do gs"):
        operator = str(instruction.operator)
        operands = list(instruction.operands)
        if operator == "cm" and len(operands) == 6:
            yield operator, _linear(Array(operands))
        elif operator in {"Do", "gs"} and operands:
            yield operator, str(operands[-1])
        elif operator in {"q", "Q"}:
            yield operator, None


def _appearances(page: Object) -> Iterator[tuple[Stream, Linear]]:
    """The appearance streams of a page's annotations, and how each is scaled into its box."""
    for annotation in page.get_list(Name.Annots) or []:
        normal = annotation.get(pikepdf.NamePath.AP.N) if _is_drawn(annotation) else None
        streams = normal.values() if type(normal) is Dictionary else [normal]
        for stream in streams:
            if isinstance(stream, Stream):
                yield stream, _fit(stream, annotation.get(Name.Rect))


def _is_drawn(annotation: Object) -> bool:
    return isinstance(annotation, Dictionary) and isinstance(annotation.get(Name.AP), Dictionary)


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
        key in resources for key in (Name.XObject, Name.Pattern, Name.ExtGState)
    )


def _resource(resources: Object | None, kind: Name, name: str) -> Object | None:
    named = resources.get(kind) if isinstance(resources, Dictionary) else None
    return named.get(name) if isinstance(named, Dictionary) else None


def _linear(matrix: Object | None) -> Linear:
    if not isinstance(matrix, Array) or len(matrix) != 6:
        return _UPRIGHT
    a, b, c, d = (float(matrix[index]) for index in range(4))
    return (a, b, c, d)


def _concatenate(inner: Linear, outer: Linear) -> Linear:
    a, b, c, d = inner
    e, f, g, h = outer
    return (a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h)
