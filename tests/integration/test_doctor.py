"""`jobs doctor`: on real servers, each thing that it looks for is broken once, and told."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from flask import Flask
from sqlalchemy import update

from backend.accounts.models import User
from backend.app import create_app
from backend.clock import utc_now
from backend.config import Settings
from backend.db import Base, db, db_now, transaction
from backend.jobs import (
    Queue,
    claims,
    marks,
    pauses,
    queries,
    schedules,
    steward,
    submit,
    workers,
)
from backend.jobs.acts import Actor
from backend.jobs.models import Job, Pause, PauseScope, ScheduleSlot, Worker
from backend.ops import doctor
from backend.storage import services as storage
from backend.storage.blobs import store
from backend.storage.models import blob_key
from tests.integration.probes import nap
from tests.integration.stack import BIN, ROOT, WORKERS, Stack, until

pytestmark = pytest.mark.needs("redis-server")
ALL = [queue.value for queue in Queue]
SLOT = claims.Slot("all@here/1", (Queue.DEFAULT,), 60)


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A ledger, a Redis server, and nothing else running; every queue is served, as it seems."""
    with tempfile.TemporaryDirectory(prefix="sluice-") as folder:
        stack = Stack(Path(folder), "", "redis-server")
        stack.data.mkdir()
        stack.open_ledger()
        stack.start("broker")
        with stack.app.app_context():
            Base.metadata.create_all(db.engine)
            schedules.submit_due()
            workers.report("all@here", ALL, 2)
            yield stack
        left = stack.stop()
        stack.close_ledger()
        assert left == []


@pytest.fixture
def client(stack: Stack) -> Iterator[Any]:
    with redis.Redis(unix_socket_path=str(stack.folder / "broker.sock")) as client:
        yield client


def told(check: str) -> str:
    """What the doctor says of one check; the others have nothing to say."""
    found = doctor.examine()
    assert {finding.check for finding in found} <= {check}
    return "\n".join(f"{finding.problem} {finding.advice}" for finding in found)


def silent_submit(stack: Stack) -> Job:
    """A job whose doorbell the broker has lost, ready for a minute."""
    with transaction() as session:
        job = submit(session, nap, None, seconds=0)
        session.info.pop("after_commit")
        job.run_at = job.turn_at = utc_now() - timedelta(minutes=1)
    return job


# ---------------------------------------------------------------- the ledger and the broker


def test_a_sound_ledger_and_broker_have_nothing_wrong(stack: Stack) -> None:
    marks.leave()
    assert doctor.examine() == []


def test_a_job_without_heartbeat_that_nobody_rescues(stack: Stack) -> None:
    job = silent_submit(stack)
    with transaction() as session:
        assert claims.claim(session, SLOT)
        session.execute(update(Job).values(lease_expires_at=db_now(-60)))
    assert "1 jobs have had no heartbeat" in told("leases")
    steward.rescue()
    with transaction() as session:
        assert claims.claim(session, SLOT)[0].job_id == job.id
    assert told("leases") == ""


def test_a_schedule_that_is_overdue(stack: Stack) -> None:
    with transaction() as session:
        session.execute(update(ScheduleSlot).values(due_at=db_now(-3 * 3600)))
    assert "The schedule clean_up is overdue since" in told("schedules_due")
    schedules.submit_due()
    assert "overdue" not in "".join(found.problem for found in doctor.examine())


def test_ready_jobs_whose_doorbells_are_lost(stack: Stack) -> None:
    silent_submit(stack)
    said = told("doorbells")
    assert "1 jobs of the queue default are ready and its slots are free" in said
    steward.redispatch()
    stack.app.extensions["sluice.doorbell"].flush(5)
    assert told("doorbells") == ""


def test_messages_whose_jobs_are_gone(stack: Stack) -> None:
    bell = stack.app.extensions["sluice.doorbell"]
    bell.ring(Queue.LOW, [uuid4() for _ in range(5)])
    bell.flush(5)
    assert "5 messages wait in the queue low_priority" in told("doorbells")


def test_a_broker_that_throws_messages_away_or_is_full(stack: Stack, client: Any) -> None:
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert "maxmemory-policy is allkeys-lru" in told("broker")
    client.config_set("maxmemory", "3mb")
    for number in range(20_000):
        client.set(f"filler {number}", "x" * 500)
    assert "has thrown" in told("broker")
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1mb")
    assert "out of memory" in told("broker")


def test_a_broker_that_is_away(stack: Stack) -> None:
    stack.kill("broker")
    said = {finding.check: finding.problem for finding in doctor.examine()}
    assert "The broker cannot be reached" in said["broker"]
    assert said.keys() <= {"broker", "applications", "clocks", "doorbells"}


def test_a_job_that_waits_for_the_broker_says_so(stack: Stack) -> None:
    job = silent_submit(stack)
    assert why(job) == "queued"
    stack.kill("broker")
    assert why(job) == "broker_down"
    pauses.pause(Actor(by="root", via="command"), PauseScope.QUEUE, "default")
    assert why(job) == "paused"  # what the ledger knows comes first


def why(job: Job) -> str | None:
    waiting = queries.why_waiting(db.session(), job)
    return waiting and waiting.reason


def test_clocks_that_are_apart(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "utc_now", lambda: utc_now() - timedelta(minutes=5))
    said = told("clocks")
    assert "The clock of the database is 300.0 s ahead of this machine's" in said
    assert "The clock of the broker is 300.0 s ahead" in said


def other_application(stack: Stack, **own: Any) -> Flask:
    settings = stack.settings().model_copy(update=own)
    return create_app(Settings(_env_file=None, **settings.model_dump()))


def test_another_application_on_the_same_broker_database(stack: Stack) -> None:
    marks.leave()
    other = other_application(stack, data_dir=stack.folder / "other")
    (stack.folder / "other").mkdir()
    with other.app_context():
        Base.metadata.create_all(db.engine)
        workers.report("default@there", [Queue.DEFAULT], 1)
        db.engine.dispose()
    assert "An application with another ledger uses this broker database" in told("applications")


def test_a_program_with_other_settings_on_the_same_ledger(stack: Stack) -> None:
    marks.leave()
    key = "another key for tests, of forty characters"
    with other_application(stack, lease_seconds=60.0, secret_key=key).app_context():
        steward.leave_mark()
        db.engine.dispose()
    said = told("applications")
    assert "LEASE_SECONDS is '60.0' (here '6.0')" in said
    assert "SECRET_KEY is another" in said
    assert key not in said


# ---------------------------------------------------------------- workers and pauses


def test_a_queue_that_no_worker_serves(stack: Stack) -> None:
    workers.report("all@here", [Queue.HIGH, Queue.DEFAULT], 2)
    assert "No worker serves the queue low_priority; 0 jobs wait" in told("served")


def test_a_worker_that_reports_no_more(stack: Stack) -> None:
    workers.report("gone@there", ALL, 2)
    with transaction() as session:
        session.execute(
            update(Worker).where(Worker.name == "gone@there").values(seen_at=db_now(-300))
        )
    assert "The worker gone@there has not reported since" in told("workers")


@pytest.mark.parametrize(
    ("scope", "name", "said"),
    [
        (PauseScope.QUEUE, "default", "queues resume default"),
        (PauseScope.KIND, "probe.nap", "kinds resume probe.nap"),
        (PauseScope.WORKER, "all@here", "workers undrain all@here"),
    ],
)
def test_what_is_paused_for_long(stack: Stack, scope: PauseScope, name: str, said: str) -> None:
    silent = partial(Pause, scope=scope, name=name, paused_by="ann@example.org", reason="moving")
    with transaction() as session:
        session.add(silent(paused_at=db_now(-60)))
    assert told("pauses") == ""
    with transaction() as session:
        session.execute(update(Pause).values(paused_at=db_now(-2 * 3600)))
    found = told("pauses")
    assert "by ann@example.org (moving); 0 jobs wait" in found
    assert said in found


# ---------------------------------------------------------------- files and the disk


def kept_file(stack: Stack) -> str:
    """The key of a stored file's content."""
    with transaction() as session:
        session.add(User(id=1, email="ann@example.org", password_hash="-"))
    path = stack.folder / "a.txt"
    path.write_bytes(b"hello")
    with storage.spool_path(path) as spool, transaction() as session:
        file = storage.store_spooled(session, 1, spool, "text/plain", expires_at=None)
        return blob_key(file.owner_id, file.sha256)


def test_contents_without_a_row(stack: Stack) -> None:
    path = stack.folder / "stray"
    path.write_bytes(b"stray")
    key = blob_key(1, "ab" * 32)
    store().put(key, path)
    assert told("files") == ""  # it may be an upload under way
    long_ago = utc_now().timestamp() - 86400
    os.utime(stack.data / "blobs" / key, (long_ago, long_ago))
    assert "1 files in the store belong to no row of the ledger, 5 bytes" in told("files")


def test_a_row_without_its_content(stack: Stack) -> None:
    key = kept_file(stack)
    assert told("files") == ""
    store().delete([key])
    assert "The contents of 1 of the newest 1 files are not in the store" in told("files")


@pytest.mark.needs("unshare")
def test_a_disk_without_room(stack: Stack) -> None:
    small = stack.folder / "small"
    small.mkdir()
    doctor_ = f"{BIN}/flask --app app_v2 jobs doctor --json"
    command = f"mount -t tmpfs -o size=8m none {small} && exec {doctor_}"
    answer = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", command],
        cwd=ROOT,
        env={
            **stack.environment,
            "DATA_DIR": str(small),
            "DATABASE_URL": f"sqlite:///{stack.data}/sluice.db",
            "STORAGE_URL": (stack.data / "blobs").as_uri(),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1, answer.stderr
    found = {one["check"]: one["problem"] for one in json.loads(answer.stdout)["findings"]}
    assert "of 8 MiB are free" in found["disk"]


# ---------------------------------------------------------------- all of it


def test_a_sound_installation_is_told_from_one_whose_beat_was_killed(stack: Stack) -> None:
    with transaction() as session:
        session.delete(session.get_one(Worker, "all@here"))

    def examined() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "flask", "--app", "tests.integration.probe_app", "jobs", "doctor"],
            cwd=ROOT,
            env=stack.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    stack.start(*WORKERS, "beat")
    until(lambda: all(stack.has_reported(name) for name in WORKERS), "the workers report", 60)
    answer = examined()
    assert (answer.stdout, answer.returncode) == ("Nothing is wrong.\n", 0), answer.stderr
    stack.kill("beat")
    with transaction() as session:
        session.execute(update(ScheduleSlot).values(due_at=db_now(-3 * 3600)))
    answer = examined()
    assert answer.returncode == 1
    assert "no beat runs" in answer.stdout
    assert "celery -A celery_app beat" in answer.stdout
