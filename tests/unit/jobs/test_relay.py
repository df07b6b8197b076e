"""The relay of streams, over real connections: who stalls, what goes wrong, and what it leaves."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from flask import Flask
from sqlalchemy import text

from backend.accounts.guards import LogIn
from backend.accounts.models import AuthSession
from backend.accounts.tokens import Claims
from backend.clock import utc_now
from backend.db import db, transaction
from backend.jobs import relay as relays
from backend.jobs import submit, wires
from backend.jobs.follower import Follower
from backend.jobs.models import Job
from backend.jobs.relay import Relay
from tests.unit.jobs import probes
from tests.unit.jobs.conftest import OWNER

SECONDS = 20.0


@pytest.fixture
def relay(app: Flask) -> Iterator[Relay]:
    found: Relay = app.extensions["sluice.relay"]
    yield found
    app.extensions["sluice.hub"].is_stopping = lambda: True


@pytest.fixture
def log_in() -> LogIn:
    now = utc_now()
    with transaction() as session:
        family = AuthSession(
            user_id=OWNER,
            refresh_jti=uuid4(),
            created_at=now,
            last_used_at=now,
            expires_at=now + timedelta(hours=1),
        )
        session.add(family)
        session.flush()
    return LogIn(Claims(OWNER, family.id, uuid4(), now + timedelta(hours=1)))


Watch = Callable[[], socket.socket]


@pytest.fixture
def watch(relay: Relay, log_in: LogIn) -> Iterator[Watch]:
    """Let the relay tell somebody of all of the owner's jobs; return their end of the wire."""
    ends: list[socket.socket] = []

    def open_stream() -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(SECONDS)
        ends.append(ours)
        assert relay.take_seat()
        relay.add(theirs, Follower(OWNER, None, log_in, None), b"")
        return ours

    yield open_stream
    for end in ends:
        end.close()


def read_until(wire: socket.socket, part: bytes) -> bytes:
    came = b""
    while part not in came:
        more = wire.recv(65536)
        assert more, f"the stream has ended, and {part!r} was not told: {came[-300:]!r}"
        came += more
    return came


def happen(count: int = 1) -> list[UUID]:
    with transaction() as session:
        return [submit(session, probes.echo, OWNER, text="x").id for _ in range(count)]


def test_one_who_takes_nothing_is_let_go_and_the_others_stay(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "STALL_SECONDS", 1.0)
    monkeypatch.setattr(wires, "KERNEL_BYTES", 4096)
    sleeper, reader = watch(), watch()
    read_until(reader, b"retry")
    read_until(sleeper, b"retry")

    jobs = happen(40)
    read_until(reader, str(jobs[-1]).encode())
    reader.settimeout(0.1)
    while is_open(sleeper):
        with suppress(TimeoutError):
            assert reader.recv(65536)
    reader.settimeout(SECONDS)

    (late,) = happen()
    read_until(reader, str(late).encode())


def is_open(wire: socket.socket) -> bool:
    """Whether the other end was not closed; nothing is read."""
    try:
        return wire.send(b"x") > 0
    except (BrokenPipeError, ConnectionResetError):
        return False


def test_a_ledger_that_was_away_is_told_from_where_it_was_left(watch: Watch) -> None:
    wire = watch()
    read_until(wire, b"retry")
    (before,) = happen()
    read_until(wire, str(before).encode())
    with away("job_events"):
        wire.settimeout(3)
        with pytest.raises(TimeoutError):
            wire.recv(1)  # silent, and not ended
        wire.settimeout(SECONDS)
    jobs = happen(3)

    came = read_until(wire, f'"job_id": "{jobs[-1]}"'.encode())
    told = [came.count(f'"job_id": "{job_id}"'.encode()) for job_id in [before, *jobs]]
    assert told == [0, 1, 1, 1]


@contextmanager
def away(table: str) -> Iterator[None]:
    """A table cannot be read."""
    db.session.commit()
    with db.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {table}_away"))
    yield
    with db.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE {table}_away RENAME TO {table}"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_after_a_fault_all_are_let_go_and_the_next_are_served(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    wires = [watch() for _ in range(3)]
    for wire in wires:
        read_until(wire, b"retry")
    with monkeypatch.context() as broken:
        broken.setattr(Job, "ended", property(lambda _: 1 / 0))
        happen()
        for wire in wires:
            while wire.recv(65536):
                pass

    wire = watch()
    read_until(wire, b"retry")
    (job_id,) = happen()
    read_until(wire, str(job_id).encode())


def test_a_stream_that_ends_leaves_its_place(
    relay: Relay, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    while relay.take_seat():
        taken += 1
    for _ in range(3):
        relay.leave_seat()
        wire = watch()
        read_until(wire, b"retry")
        assert not relay.take_seat()
        wire.close()
        while not relay.take_seat():
            pass
    assert taken == 2000
