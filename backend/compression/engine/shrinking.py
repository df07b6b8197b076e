"""Making the streams of an open document smaller."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from pikepdf import Name, Object, Pdf, Stream

from backend.compression.engine import content, fonts, images, profiles
from backend.compression.engine.document import objects_of, pdfa_claim
from backend.compression.engine.duplicates import merge_duplicates
from backend.compression.engine.errors import UNDECODABLE
from backend.compression.engine.levels import Aim
from backend.compression.engine.progress import Progress
from backend.compression.engine.samples import is_lossless
from backend.compression.engine.streams import deflated
from backend.compression.engine.strip import strip
from backend.compression.engine.survey import ObjectId, Survey, survey

# Of an image of more samples only one is unpacked at a time.
_LARGE = 16_000_000
# Some ten seconds' worth of numbers.
_ROUNDED_BYTES_MAX = 64 * 2**20
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(slots=True)
class Work:
    """What was done to a document, and what was not: counts, and sentences."""

    images: int = 0
    images_recoded: int = 0
    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def is_image(thing: Object) -> bool:
    """Whether an object is an image XObject."""
    return isinstance(thing, Stream) and thing.get(Name.Subtype) == Name.Image


def shrink(pdf: Pdf, aim: Aim | None, progress: Progress) -> Work:
    """Make the streams of an open document smaller; `progress` goes from 0 to 0.8."""
    work = Work()
    private = strip(objects_of(pdf))
    merged = merge_duplicates(pdf)
    progress(0.05)
    found = survey(progress.over(list(pdf.pages), 0.05, 0.2))
    emptied = _by_object(fonts.empty_unused(pdf, found, hints=aim is None or aim.hints))
    archived = pdfa_claim(pdf) is not None
    slimmed = {} if archived else _by_object(profiles.slimmer(objects_of(pdf)))
    smaller = {**emptied, **slimmed, **(_rounded(pdf) if aim is not None else {})}
    streams = [
        thing
        for thing in objects_of(pdf)
        if isinstance(thing, Stream) and thing.objgen not in merged
    ]
    pictures = [stream for stream in streams if is_image(stream)]
    recoded, packed = _recode(pictures, aim, found, progress, archived=archived), 0
    for stream in progress.over(streams, 0.7, 0.8):
        if stream.objgen not in recoded:
            data = deflated(stream, smaller.get(stream.objgen), archived=archived)
            if data is not None:
                stream.write(data, filter=Name.FlateDecode)
                packed += 1
    merged |= merge_duplicates(pdf)  # what was stored in different ways is stored alike now
    work.images, work.images_recoded = len(pictures), len(recoded)
    _tell(
        work,
        aim,
        {
            "Glyphs that are not shown taken out of {}": (len(emptied), "font"),
            "What only a printer needs taken out of {}": (len(slimmed), "colour profile"),
            "{} that came twice stored once": (len(merged), "object"),
            "{} of previews and of programs' own data removed": (private, "entry"),
            "{} of text, drawings and others packed in fewer bytes": (packed, "stream"),
        },
    )
    if not found.complete:
        work.left.append("Fonts keep all their glyphs: what the pages show could not be followed.")
    if archived:
        work.left.append("Metadata and colour profiles are as they were: the document is PDF/A.")
    return work


def _by_object(smaller: Iterator[tuple[Stream, bytes]]) -> dict[ObjectId, bytes]:
    return {stream.objgen: data for stream, data in smaller}


def _tell(work: Work, aim: Aim | None, others: dict[str, tuple[int, str]]) -> None:
    kept = work.images - work.images_recoded
    how = f"with {aim.dpi} dots per inch or more" if aim is not None else "every pixel the same"
    if work.images_recoded:
        of = _count(work.images, "image")
        work.done.append(f"{work.images_recoded} of {of} stored in fewer bytes, {how}.")
    if kept:
        work.left.append(f"{_count(kept, 'image')} left as stored: no other way is smaller.")
    work.done += [
        f"{sentence.format(_count(number, noun))}."
        for sentence, (number, noun) in others.items()
        if number
    ]


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun.removesuffix('y')}ies" if noun.endswith("ry") else f"{number} {noun}s"


def _recode(
    pictures: list[Stream], aim: Aim | None, found: Survey, progress: Progress, *, archived: bool
) -> set[ObjectId]:
    """Store images in other ways, where that is smaller; which they were.

    Several at a time: the codecs let other threads run.
    """
    masks = {each.SMask.objgen for each in pictures if isinstance(each.get(Name.SMask), Stream)}

    def better(picture: Stream) -> images.Recoded | None:
        # What could not be followed may draw an image larger than anything that could.
        placement = found.placements.get(picture.objgen) if found.complete else None
        soft_mask = picture.objgen in masks
        return images.recode(picture, aim, placement, soft_mask=soft_mask, archived=archived)

    done = set()
    large = [each for each in pictures if images.samples_in(each) > _LARGE]
    alone = {each.objgen for each in large}
    small = [each for each in pictures if each.objgen not in alone]
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            results: Iterator[images.Recoded | None] = pool.map(better, small)
            for picture in progress.over(small + large, 0.2, 0.7):
                recoded = better(picture) if picture.objgen in alone else next(results)
                if recoded is not None:
                    images.replace(picture, recoded)
                    done.add(picture.objgen)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return done


def _rounded(pdf: Pdf) -> dict[ObjectId, bytes]:
    """Content streams in fewer digits, by their objects."""
    streams = [
        part
        for page in pdf.pages
        for part in (page.obj.get(Name.Contents), *(page.obj.get_list(Name.Contents) or ()))
    ]
    streams += [
        thing
        for thing in objects_of(pdf)
        if isinstance(thing, Stream) and thing.get(Name.Subtype) == Name.Form
    ]
    found, left = {}, _ROUNDED_BYTES_MAX
    each = {stream.objgen: stream for stream in streams if isinstance(stream, Stream)}
    for stream in each.values():
        if left > 0 and is_lossless(stream):
            with suppress(*UNDECODABLE):
                before = stream.read_bytes()
                left -= len(before)
                after = content.rounded(before)
                if after != before:
                    found[stream.objgen] = after
    return found
