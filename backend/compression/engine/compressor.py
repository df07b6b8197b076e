"""Compressing one document, from file to file."""

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from pikepdf import Name, Object, Pdf, Stream

from backend.compression.engine import content, fonts, images, profiles
from backend.compression.engine.document import (
    is_signed,
    objects_of,
    open_pdf,
    opens_alike,
    pdfa_part,
    save_pdf,
)
from backend.compression.engine.duplicates import merge_duplicates
from backend.compression.engine.errors import MALFORMED, UNDECODABLE, DamagedPdf
from backend.compression.engine.levels import Aim, Level, aim_of
from backend.compression.engine.progress import Interrupted, Progress
from backend.compression.engine.result import Compression
from backend.compression.engine.samples import is_lossless
from backend.compression.engine.streams import deflated
from backend.compression.engine.strip import strip
from backend.compression.engine.survey import ObjectId, survey

_KEPT_SIGNED = "The PDF is signed: it was left as it is, so that the signature stays valid."
_BROKE_SIGNATURE = "The PDF was signed: compressing it made the signature invalid, as was asked."
_KEPT_SMALL = "The PDF is already small: the original was kept."
_KEPT_SAFE = "The PDF could not be written again faithfully: the original was kept."
_REPAIRED = "The PDF was damaged: it was repaired on the way."


def _nothing(_fraction: float) -> None:
    """Report to nobody."""


def compress(
    source: Path,
    target: Path,
    *,
    level: Level,
    image_quality: int = 80,
    password: str | None = None,
    change_signed: bool = False,
    progress: Callable[[float], None] = _nothing,
) -> Compression:
    """Write a smaller PDF to `target`, or the original when it gets no smaller.

    `image_quality` is from 1 to 100. `password` opens an encrypted PDF, which stays encrypted as
    it was. A signed PDF is changed only if `change_signed`. `progress` gets fractions that never
    fall, the last one 1.0; what it raises comes out of here.

    `target` is written with mode 0600 and only on success. Raises NotAPdf, NeedsPassword,
    WrongPassword, DamagedPdf or QualityOutOfRange.
    """
    aim = aim_of(level, image_quality)
    report = Progress(progress)
    try:
        report(0.0)
        with warnings.catch_warnings(), _written_whole(target) as draft:
            warnings.simplefilter("ignore")
            with _damage_named(), open_pdf(source, password) as pdf:
                original = _facts(pdf, source)
                if original.signed and not change_signed:
                    compression = replace(original, note=_KEPT_SIGNED)
                else:
                    recoded = _shrink(pdf, aim, report)
                    compression = _write(pdf, draft, password, original, recoded, report)
            if not compression.changed:
                shutil.copyfile(source, draft)
            report(1.0)
    except Interrupted as interrupted:
        raise interrupted.reason from None
    return compression


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
    except MALFORMED as error:
        raise DamagedPdf("The PDF is damaged and cannot be compressed.") from error


def _facts(pdf: Pdf, source: Path) -> Compression:
    """What is known of a document before it is compressed, as if it will be kept."""
    size = source.stat().st_size
    return Compression(
        original_bytes=size,
        compressed_bytes=size,
        pages=len(pdf.pages),
        changed=False,
        signed=is_signed(pdf),
        encrypted=pdf.is_encrypted,
        images=sum(_is_image(thing) for thing in objects_of(pdf)),
        images_recoded=0,
        note=_REPAIRED if pdf.get_warnings() else None,
    )


def _is_image(thing: Object) -> bool:
    return isinstance(thing, Stream) and thing.get(Name.Subtype) == Name.Image


def _shrink(pdf: Pdf, aim: Aim | None, progress: Progress) -> int:
    """Make the streams of an open document smaller; the number of images that changed."""
    strip(objects_of(pdf))
    gone = merge_duplicates(pdf)
    progress(0.05)
    found = survey(pdf, progress, 0.05, 0.2)
    smaller = {stream.objgen: data for stream, data in fonts.empty_unused(pdf, found)}
    archived = pdfa_part(pdf) is not None
    if not archived:
        smaller.update(_slimmed(objects_of(pdf)))
    if aim is not None:
        smaller.update(_rounded(pdf))
    streams = [
        thing for thing in objects_of(pdf) if isinstance(thing, Stream) and thing.objgen not in gone
    ]
    soft_masks = {
        stream.SMask.objgen for stream in streams if isinstance(stream.get(Name.SMask), Stream)
    }
    recoded = 0
    for stream in progress.over(streams, 0.2, 0.9):
        if _is_image(stream):
            soft_mask = stream.objgen in soft_masks
            placement = found.placements.get(stream.objgen)
            better = images.recode(stream, aim, placement, soft_mask=soft_mask)
            if better is not None:
                images.replace(stream, better)
                recoded += 1
                continue
        packed = deflated(stream, smaller.get(stream.objgen), archived=archived)
        if packed is not None:
            stream.write(packed, filter=Name.FlateDecode)
    merge_duplicates(pdf)  # what was stored in different ways is stored alike now
    return recoded


def _slimmed(things: list[Object]) -> dict[ObjectId, bytes]:
    """Colour profiles without what is for output, by their objects."""
    found = {}
    for stream in profiles.sources(things):
        with suppress(*UNDECODABLE):
            before = stream.read_bytes()
            after = profiles.slimmed(before)
            if len(after) < len(before):
                found[stream.objgen] = after
    return found


def _rounded(pdf: Pdf) -> dict[ObjectId, bytes]:
    """Content streams in fewer digits, by their objects."""
    streams = [
        part
        for page in pdf.pages
        for part in (page.obj.get(Name.Contents), *(page.obj.get_list(Name.Contents) or ()))
    ]
    streams += [thing for thing in objects_of(pdf) if _is_form(thing)]
    found = {}
    for stream in streams:
        if isinstance(stream, Stream) and is_lossless(stream):
            with suppress(*UNDECODABLE):
                before = stream.read_bytes()
                after = content.rounded(before)
                if after != before:
                    found[stream.objgen] = after
    return found


def _is_form(thing: Object) -> bool:
    return isinstance(thing, Stream) and thing.get(Name.Subtype) == Name.Form


def _write(
    pdf: Pdf,
    draft: Path,
    password: str | None,
    original: Compression,
    recoded: int,
    progress: Progress,
) -> Compression:
    """Save a shrunk document, and say whether that is better than the original."""
    with draft.open("wb") as file:
        save_pdf(pdf, file, progress, 0.9, 0.99)
    size = draft.stat().st_size
    if size >= original.original_bytes:
        return replace(original, note=_KEPT_SMALL)
    if not opens_alike(draft, pdf, password):
        return replace(original, note=_KEPT_SAFE)
    return replace(
        original,
        compressed_bytes=size,
        changed=True,
        images_recoded=recoded,
        note=_BROKE_SIGNATURE if original.signed else original.note,
    )
