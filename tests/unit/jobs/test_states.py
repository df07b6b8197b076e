"""The states of a job and the moves between them."""

from backend.jobs.states import (
    ACTIVE,
    CLIENT_STATE,
    CLIENT_STATUS,
    ENDED,
    LEASED,
    MOVES,
    READY,
    JobState,
)


def test_every_state_has_its_moves_and_its_names() -> None:
    assert set(MOVES) == set(CLIENT_STATE) == set(CLIENT_STATUS) == set(JobState)


def test_every_state_is_active_or_ended() -> None:
    assert set(JobState) == ACTIVE | ENDED
    assert not ACTIVE & ENDED
    assert READY < ACTIVE
    assert LEASED < ACTIVE


def test_every_state_is_reached_and_every_active_one_can_end() -> None:
    reached = {after for before, moves in MOVES.items() for after in moves - {before}}
    assert reached | {JobState.WAITING, JobState.QUEUED} == set(JobState)
    for state in ACTIVE:
        assert ends_from(state), f"{state} never ends"


def ends_from(state: JobState) -> bool:
    seen, newest = {state}, {state}
    while newest:
        newest = {after for before in newest for after in MOVES[before]} - seen
        seen |= newest
    return bool(seen & ENDED)


def test_what_is_asked_to_stop_does_not_run_again() -> None:
    assert not MOVES[JobState.CANCELLING] & {JobState.QUEUED, JobState.RETRYING, JobState.RUNNING}


def test_an_ended_job_moves_only_to_be_queued_again_by_a_person() -> None:
    for state in ENDED:
        assert MOVES[state] <= {JobState.QUEUED, JobState.WAITING}


def test_callers_read_the_names_of_the_contract() -> None:
    assert set(CLIENT_STATE.values()) == {
        *("PENDING", "PROGRESS", "RETRY", "CANCELLING", "SUCCESS", "FAILURE", "REVOKED")
    }
    assert set(CLIENT_STATUS.values()) == {
        *("pending", "processing", "completed", "failed", "cancelled")
    }
