"""The page of memory between an attempt and its watcher."""

import json
import os
import select
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from backend.jobs.attempts import Progress
from backend.jobs.claims import Claim, Fence
from backend.jobs.shared_page import HEADER, PROGRESS_AT, SIZE, SharedPage


@pytest.fixture
def page() -> Iterator[SharedPage]:
    """A page on which the first attempt has begun."""
    page = SharedPage()
    page.begin(claim())
    yield page
    page.close()


def claim(parent_id: UUID | None = None) -> Claim:
    return Claim(
        job_id=uuid4(),
        token=uuid4(),
        attempt=3,
        attempts_left=0,
        kind="probe.echo",
        params={},
        owner_id=1,
        parent_id=parent_id,
        checkpoint=None,
        request_id="r" * 64,
    )


def progress(message: str = "reading", percent: float = 12.5) -> Progress:
    return Progress(percent=percent, stage="read", message=message, items_done=1, items_total=8)


def other_side(page: SharedPage) -> SharedPage:
    """The same page as the process beyond the fork has it."""
    twin = SharedPage.__new__(SharedPage)
    twin._page, twin._file, twin._number, twin._progress = page._page, page._file, 0, []
    return twin


def test_what_was_posted_is_read_once(page: SharedPage) -> None:
    watcher = other_side(page)
    assert watcher.read(1) is None
    page.post(progress())

    assert watcher.read(1) == progress()
    assert watcher.read(1) is None


def test_only_the_newest_is_read(page: SharedPage) -> None:
    watcher = other_side(page)
    for number in range(10):
        page.post(progress(f"page {number}"))

    assert watcher.read(1) == progress("page 9")


def test_the_wish_to_stop_goes_the_other_way_and_a_report_does_not_undo_it(
    page: SharedPage,
) -> None:
    watcher = other_side(page)
    assert not page.stop_wanted
    watcher.ask_to_stop(1)
    page.post(progress())

    assert page.stop_wanted
    assert watcher.read(1) == progress()


def test_the_attempt_that_runs_is_seen_and_none_in_between(page: SharedPage) -> None:
    watcher, held = other_side(page), claim(parent_id=uuid4())
    page.begin(held)

    seen = watcher.current()
    assert seen is not None
    assert seen.fence == Fence(job_id=held.job_id, token=held.token, attempt=3)
    assert (seen.number, seen.kind, seen.parent_id) == (2, held.kind, held.parent_id)
    assert seen.request_id == held.request_id
    assert seen.started <= time.monotonic()
    page.rest()
    assert watcher.current() is None
    assert watcher.count == 2


def test_a_wish_is_for_one_attempt_and_not_for_the_next(page: SharedPage) -> None:
    watcher = other_side(page)
    watcher.ask_to_stop(1)
    watcher.interrupt(1)
    assert (page.stop_wanted, page.interrupt_wanted) == (True, True)
    page.begin(claim())

    assert (page.stop_wanted, page.interrupt_wanted) == (False, False)


def test_a_process_that_is_relieved_learns_it_when_the_attempt_is_over(page: SharedPage) -> None:
    slot = other_side(page)
    with slot.relieving(7) as runs:
        assert not runs
    with slot.relieving(1) as runs:
        assert runs
    assert page.rest()
    page.begin(claim())

    assert not page.rest()
    with slot.relieving(2) as runs:
        assert not runs  # too late


def test_a_relief_that_fails_leaves_the_process_what_it_holds(page: SharedPage) -> None:
    slot = other_side(page)
    with pytest.raises(OSError, match="away"), slot.relieving(1):
        raise OSError("the ledger is away")

    assert not page.rest()


def test_a_process_does_not_go_on_while_it_is_relieved(page: SharedPage) -> None:
    read, write = os.pipe()
    with page.relieving(1):
        child = os.fork()
        if child == 0:
            page.rest()
            os.write(write, b"on")
            os._exit(0)
        assert select.select([read], [], [], 0.3)[0] == []
    assert os.read(read, 2) == b"on"
    os.waitpid(child, 0)


def test_progress_of_the_attempt_before_is_not_taken_for_this_ones(page: SharedPage) -> None:
    watcher = other_side(page)
    page.post(progress())
    page.begin(claim())

    assert watcher.read(2) is None
    page.post(progress("the second's"))
    assert watcher.read(2) == progress("the second's")


@pytest.mark.parametrize(
    "message",
    ["", "naïve", "字" * 5000, "\N{GRINNING FACE}" * 5000, "\x01\x02" * 5000, '"\\' * 5000],
    ids=["empty", "accents", "han", "emoji", "controls", "quotes"],
)
def test_a_message_of_any_length_and_script_arrives_cut_at_a_character(
    page: SharedPage, message: str
) -> None:
    watcher = other_side(page)
    page.post(progress(message))

    read = watcher.read(1)
    assert read is not None
    assert read.message == message[:300]


def test_half_a_surrogate_pair_arrives_as_a_question_mark(page: SharedPage) -> None:
    watcher = other_side(page)
    page.post(progress("file \udce9.pdf"))

    assert watcher.read(1) == progress("file ?.pdf")


@pytest.mark.parametrize("place", [0, 5, HEADER.size, HEADER.size + 9])
def test_a_torn_write_is_not_read_and_the_next_whole_one_is(page: SharedPage, place: int) -> None:
    watcher = other_side(page)
    page.post(progress())
    page._page[PROGRESS_AT + place] ^= 0xFF

    assert watcher.read(1) is None

    page.post(progress("whole again"))
    assert watcher.read(1) == progress("whole again")


def test_noise_is_never_taken_for_progress(page: SharedPage) -> None:
    watcher = other_side(page)
    for _ in range(2000):
        page._page[:SIZE] = os.urandom(SIZE)
        assert watcher.read(1) is None
        assert watcher.current() is None


def test_a_reader_beside_a_tireless_writer_sees_whole_rising_progress(page: SharedPage) -> None:
    child = os.fork()
    if child == 0:
        number = 0
        while not page.stop_wanted:
            number += 1
            page.post(progress(f"step {number} " + "x" * (number % 250), number / 1e6))
        os._exit(0)
    seen: list[float] = []
    until = time.monotonic() + 20
    while len(seen) < 200 and time.monotonic() < until:
        read = page.read(1)
        if read is not None:
            assert read.message.startswith(f"step {round(read.percent * 1e6)} ")
            seen.append(read.percent)
    page.ask_to_stop(1)
    os.waitpid(child, 0)

    assert len(seen) == 200
    assert seen == sorted(seen)


def test_reporting_costs_no_more_than_a_few_times_what_encoding_the_report_does(
    page: SharedPage,
) -> None:
    report = progress("Compressing document 45/100…")

    def encode() -> None:
        zlib.crc32(json.dumps([report.percent, report.stage, report.message, 1, 8]).encode())

    def best_of(call: Callable[[], None], times: int = 5) -> float:
        taken = []
        for _ in range(times):
            started = time.perf_counter()
            for _ in range(5000):
                call()
            taken.append(time.perf_counter() - started)
        return min(taken)

    assert best_of(lambda: page.post(report)) < 4 * best_of(encode)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is a file on the disk")
def test_a_page_needs_no_room_on_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    page = SharedPage()
    page.begin(claim())
    page.post(progress())

    assert page.read(1) == progress()
    page.close()
