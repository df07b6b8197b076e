"""Compressing one document, from file to file."""

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pikepdf import Dictionary, Name, Pdf, Stream, String

from backend.compression.engine.bombs import refuse_bombs
from backend.compression.engine.comparison import compare
from backend.compression.engine.document import objects_of, open_pdf, save_pdf
from backend.compression.engine.errors import MALFORMED, DamagedPdf, NeedsMemory
from backend.compression.engine.inventory import attachments_of
from backend.compression.engine.levels import DEFAULT_QUALITY, Level, Step, all_steps, steps_from
from backend.compression.engine.progress import Interrupted, Progress
from backend.compression.engine.receipt import (
    Contents,
    Receipt,
    SignedPolicy,
    contents_of,
    faults,
)
from backend.compression.engine.shrinking import is_image, shrink
from backend.errors import InvalidInput

_KEPT_SIGNED = "The PDF is signed: it was left as it is, so that the signature stays valid."
_BROKE_SIGNATURE = "The PDF was signed: compressing it made the signature invalid, as was asked."
_KEPT_SMALL = "The PDF is already small: the original was kept."
_KEPT_SAFE = "The PDF could not be written again faithfully: the original was kept."
_KEPT_WITHIN = "The PDF has no more than {} bytes already: the original was kept."
_TOO_LARGE = "The PDF could not be made as small as {} bytes: {} are the least without ruin."
_REPAIRED = "The PDF was damaged: it was repaired on the way."
# Comparing a long document is ended after so long; which pages were compared is in the receipt.
_COMPARING_SECONDS = 15.0
_NESTED_MAX = 3


def _nothing(_fraction: float) -> None:
    """Report to nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wishes:
    """What the caller asked for. `nested` counts the documents that this one is attached to."""

    level: Level
    image_quality: int
    target_bytes: int | None = None
    password: str | None = None
    signed: SignedPolicy = SignedPolicy.SKIP
    attachments: bool
    nested: int = 0


def compress(
    source: Path,
    target: Path,
    *,
    level: Level,
    image_quality: int = DEFAULT_QUALITY,
    target_bytes: int | None = None,
    password: str | None = None,
    signed: SignedPolicy = SignedPolicy.SKIP,
    attachments: bool = False,
    progress: Callable[[float], None] = _nothing,
) -> Receipt:
    """Write a smaller PDF to `target`, or the original when it gets no smaller.

    What was written is read and rendered again, and kept only when nothing is missing and every
    page looks as the level promises; else a gentler level is tried, and in the end the original is
    kept.

    `image_quality` is from 1 to 100. With `target_bytes` the gentlest way is taken that gives no
    more bytes, whatever the level; when there is none, the strongest. `password` opens an encrypted
    PDF, which stays encrypted as it was. `attachments` compresses attached PDFs too. `progress`
    gets fractions that never fall, the last one 1.0; what it raises comes out of here.

    `target` is written with mode 0600 and only on success. Raises NotAPdf, NeedsPassword,
    WrongPassword, DamagedPdf, TooElaborate,
    NeedsMemory or QualityOutOfRange.
    """
    wishes = _Wishes(
        level=level,
        image_quality=image_quality,
        target_bytes=target_bytes,
        password=password,
        signed=signed,
        attachments=attachments,
    )
    report = Progress(progress)
    try:
        report(0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            receipt = _compress(source, target, wishes, report)
    except Interrupted as interrupted:
        raise interrupted.reason from None
    return receipt


def _compress(source: Path, target: Path, wishes: _Wishes, report: Progress) -> Receipt:
    steps = steps_from(wishes.level, wishes.image_quality)
    with _written_whole(target) as draft, _damage_named():
        original = _original(source, wishes)
        work = _Document(source, draft, original, wishes, report)
        if original.before.inventory.signed and wishes.signed is SignedPolicy.SKIP:
            receipt = original.kept(_KEPT_SIGNED)
        elif wishes.target_bytes is not None:
            receipt = work.within(all_steps(wishes.image_quality), wishes.target_bytes)
        else:
            receipt = work.first_faithful(steps)
        if not receipt.changed:
            shutil.copyfile(source, draft)
        report(1.0)
    return receipt


@contextmanager
def _written_whole(target: Path) -> Iterator[Path]:
    """A new file beside `target` that takes its place at the end, or is gone after an error."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    os.close(descriptor)
    draft = Path(name)
    try:
        yield draft
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def _damage_named() -> Iterator[None]:
    """Give what pikepdf trips over in a malformed document a name and a sentence."""
    try:
        yield
    except InvalidInput:
        raise
    except MemoryError as error:
        raise NeedsMemory("Compressing this PDF takes more memory than there is for it.") from error
    except MALFORMED as error:
        raise DamagedPdf("The PDF is damaged and cannot be compressed.") from error


def _original(source: Path, wishes: _Wishes) -> Receipt:
    """The receipt of a document before it is compressed, as if it will be kept."""
    with open_pdf(source, wishes.password) as pdf:
        size = source.stat().st_size
        refuse_bombs(pdf, size)
        contents = contents_of(pdf, source)
        return Receipt(
            original_bytes=size,
            compressed_bytes=size,
            level=wishes.level,
            changed=False,
            images=sum(is_image(thing) for thing in objects_of(pdf)),
            images_recoded=0,
            before=contents,
            after=contents,
            note=_REPAIRED if pdf.get_warnings() else None,
        )


@dataclass(frozen=True, slots=True)
class _Document:
    """One document, and the tries to make it smaller, each from the beginning."""

    source: Path
    draft: Path
    original: Receipt
    wishes: _Wishes
    report: Progress

    def first_faithful(self, steps: list[Step]) -> Receipt:
        """The first of some ways that changes no more than it may, or the original."""
        refused: list[str] = []
        for step in steps:
            receipt = self._written(step)
            if not receipt.changed:
                return replace(receipt, left=(*refused, *receipt.left))
            receipt, why = self._checked(receipt, step)
            if not why:
                return replace(receipt, left=(*refused, *receipt.left))
            refused.append(f"At the level {step.level}, {'; '.join(why)}.")
            if receipt.comparison is not None and receipt.comparison.problem is not None:
                break  # a gentler way has the same problem, and takes as long
        return replace(self.original, left=tuple(refused)).kept(_KEPT_SAFE)

    def within(self, steps: list[Step], target_bytes: int) -> Receipt:
        """The gentlest way to so few bytes, else the strongest.

        `steps` go from the gentlest to the strongest; they are searched by halves.
        """
        if self.original.original_bytes <= target_bytes:
            return self.original.kept(_KEPT_WITHIN.format(target_bytes))
        low, high = 0, len(steps) - 1
        while low < high:
            middle = (low + high) // 2
            if self._written(steps[middle]).compressed_bytes <= target_bytes:
                high = middle
            else:
                low = middle + 1
        receipt = self.first_faithful(steps[low::-1])
        if receipt.compressed_bytes <= target_bytes:
            return receipt
        return replace(receipt, note=_TOO_LARGE.format(target_bytes, receipt.compressed_bytes))

    def _written(self, step: Step) -> Receipt:
        """Write the document in one way, not checked yet."""
        with open_pdf(self.source, self.wishes.password) as pdf:
            work = shrink(pdf, step.aim, self.report)
            if self.wishes.attachments:
                work.done += self._attached(pdf, step)
            with self.draft.open("wb") as file:
                save_pdf(pdf, file, self.report, 0.8, 0.85)
        size = self.draft.stat().st_size
        if size >= self.original.original_bytes:
            return self.original.kept(_KEPT_SMALL)
        signed = self.original.before.inventory.signed
        return replace(
            self.original,
            compressed_bytes=size,
            level=step.level,
            changed=True,
            images_recoded=work.images_recoded,
            done=tuple(work.done),
            left=tuple(work.left),
            note=_BROKE_SIGNATURE if signed else self.original.note,
        )

    def _checked(self, receipt: Receipt, step: Step) -> tuple[Receipt, list[str]]:
        """Read and render what was written; why it must not be handed on, if there is a reason."""
        after = self._read_again()
        if after is None:
            return receipt, ["the document could not be opened again"]
        seen = compare(
            self.source,
            self.draft,
            self.wishes.password,
            seconds=_COMPARING_SECONDS,
            progress=lambda fraction: self.report(0.85 + 0.14 * fraction),
        )
        why = faults(
            receipt.before.inventory,
            after.inventory,
            seen,
            step.floor,
            attachments=self.wishes.attachments,
        )
        return replace(receipt, after=after, comparison=seen), why

    def _read_again(self) -> Contents | None:
        try:
            with open_pdf(self.draft, self.wishes.password) as pdf:
                return contents_of(pdf, self.draft)
        except (InvalidInput, *MALFORMED):
            return None

    def _attached(self, pdf: Pdf, step: Step) -> list[str]:
        """Compress the PDFs that are attached, but for what is signed or locked; what was done."""
        if self.wishes.nested >= _NESTED_MAX:
            return []
        wishes = replace(
            self.wishes,
            level=step.level,
            target_bytes=None,
            password=None,
            signed=SignedPolicy.SKIP,
            nested=self.wishes.nested + 1,
        )
        done, seen = [], set()
        for name, stream in attachments_of(pdf):
            if stream.objgen in seen:
                continue  # one file may be attached under several names
            seen.add(stream.objgen)
            content = stream.read_bytes()
            if not content.startswith(b"%PDF-"):
                continue
            with tempfile.TemporaryDirectory(dir=self.draft.parent) as folder:
                source, target = Path(folder, "attached.pdf"), Path(folder, "smaller.pdf")
                source.write_bytes(content)
                try:
                    receipt = _compress(source, target, wishes, Progress(self._attached_report))
                except InvalidInput:
                    continue  # what cannot be opened stays as it is
                if receipt.changed:
                    _replace_attached(stream, target.read_bytes())
                    sizes = f"{receipt.original_bytes} to {receipt.compressed_bytes} bytes"
                    done.append(f"The attached {name} made smaller, {sizes}.")
        return done

    def _attached_report(self, _fraction: float) -> None:
        self.report(0.8)


def _replace_attached(stream: Stream, data: bytes) -> None:
    stream.write(data)
    parameters = stream.get(Name.Params)
    if isinstance(parameters, Dictionary):
        parameters.Size = len(data)
        if Name.CheckSum in parameters:  # MD5 (ISO 32000-2, table 45)
            parameters.CheckSum = String(hashlib.md5(data, usedforsecurity=False).digest())
