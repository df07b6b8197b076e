"""The check that follows every row sees what it is there for."""

import subprocess
from uuid import uuid4

import pytest
from sqlalchemy import Executable, delete, update

from backend.clock import utc_now
from backend.db import transaction
from backend.jobs.models import Job, LogLine
from tests.faults.bench import Bench
from tests.integration import probes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]


def test_the_check_sees_what_is_wrong_and_nothing_else(bench: Bench) -> None:
    job_id = bench.submit(probes.nap, seconds=0.0)
    bench.assert_done_once(job_id)
    bench.check()

    lost = uuid4()
    bench.accepted.add(lost)
    assert bench.faults() == [f"{lost} was accepted and is not there"]
    bench.accepted.discard(lost)

    scratch = bench.data / "work" / "jobs" / "left"
    scratch.parent.mkdir(parents=True, exist_ok=True)
    scratch.touch()
    assert bench.faults() == [f"left in the scratch folder: {scratch}"]
    scratch.unlink()

    begun = bench.folder / probes.BEGUN
    before = begun.read_text()
    begun.write_text(before + before.splitlines()[-1] + "\n")
    assert [fault.endswith("has begun 2 times") for fault in bench.faults()] == [True]
    begun.write_text(before)

    with subprocess.Popen(["sleep", "60"], env=bench.environment) as process:
        assert [fault.endswith("sleep 60") for fault in bench.faults()] == [True]
        process.kill()

    def change(what: Executable) -> None:
        with bench.app.app_context(), transaction() as session:
            session.execute(what)

    twice = LogLine(job_id=job_id, attempt=1, at=utc_now(), level="info", message=probes.EFFECT)
    with bench.app.app_context(), transaction() as session:
        session.add(twice)
    assert bench.faults() == [f"{job_id} has succeeded 1 times, with 2 effects"]
    change(delete(LogLine).where(LogLine.id == twice.id))

    change(update(Job).where(Job.id == job_id).values(state="failed"))
    assert "the row says failed" in " ".join(bench.faults())
    change(update(Job).where(Job.id == job_id).values(state="succeeded"))
    bench.check()
