"""Random combinations of faults under random work; a seed repeats one.

scripts/test faults --seed 1234
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from backend.errors import Unavailable
from backend.jobs import Queue
from backend.jobs.models import IS_LEASED, Job
from tests.faults.bench import Bench, parent_of
from tests.faults.plans import Plan, Step, plan_of
from tests.integration import probes
from tests.integration.stack import Person

pytestmark = [pytest.mark.integration, pytest.mark.short_times, pytest.mark.timeout(240)]

PDF = Path(__file__).parents[1] / "fixtures/pdf/form.pdf"


def test_the_plan_is_all_in_the_seed() -> None:
    assert plan_of(1234) == plan_of(1234)
    assert plan_of(1234) != plan_of(1235)
    assert {len(plan_of(seed).faults) for seed in range(50)} == {2, 3, 4}


def test_a_combination_of_faults_breaks_no_rule(bench: Bench, seed: int) -> None:
    plan = plan_of(seed)
    print(plan)  # noqa: T201 - pytest shows it with a failure
    work = Work(bench, bench.sign_in())
    carry_out(plan, bench, work)
    bench.recover()
    bench.check()
    assert 500 not in work.answers


def carry_out(plan: Plan, bench: Bench, work: "Work") -> None:
    """Do everything at its time; the faults each beside the work and the others."""
    started = time.monotonic()

    def wait_for(step: Step) -> None:
        time.sleep(max(0.0, started + step.at - time.monotonic()))

    def do(step: Step) -> None:
        wait_for(step)
        with fault(bench, step):
            time.sleep(step.lasts)

    def work_on() -> None:
        for step in plan.work:
            wait_for(step)
            work.do(step)

    with ThreadPoolExecutor(len(plan.faults) + 1) as pool:
        going_on = [pool.submit(work_on), *[pool.submit(do, step) for step in plan.faults]]
    for each in going_on:
        each.result()


@contextmanager
def fault(bench: Bench, step: Step) -> Iterator[None]:
    """One of the plan's faults, for as long as the block lasts."""
    verb, _, what = step.do.rpartition(" ")
    match step.do:
        case "kill a slot" | "kill an attempt" | "freeze a slot":
            _hit_an_attempt(bench, step)
            yield
        case "kill a web process":
            first = bench.programs["web"].pid
            pids = [pid for pid in bench.processes() if parent_of(pid) == first]
            bench.web_was_killed = True
            with suppress(ProcessLookupError):
                os.kill(pids[step.which % len(pids)], signal.SIGKILL)
            yield
        case "flush broker":
            bench.flush_broker()
            yield
        case "fill broker":
            with bench.broker_full():
                yield
        case "lock database":
            with bench.locked():
                yield
        case "end database":
            with bench.without_database():
                yield
        case "freeze database":
            with bench.database_frozen() if bench.server else bench.locked():
                yield
        case "fill disk":
            with bench.disk_full():
                yield
        case "add a beat":
            bench.start("beat-1")
            yield
        case "double messages":
            bell = bench.app.extensions["sluice.doorbell"]
            for queue in Queue:
                bell.ring(queue, list(bench.accepted)[:20])
            yield
        case _ if verb == "kill":
            with bench.killed(what):
                yield
        case _ if verb == "freeze":
            with bench.frozen(what):
                yield
        case _:
            program = bench.terminate(what)
            if verb == "terminate and kill":
                program.send_signal(signal.SIGTERM)
                bench.kill(what)
            yield
            program.wait(20)
            bench.start(what)


def _hit_an_attempt(bench: Bench, step: Step) -> None:
    """Kill or freeze what runs just now: the process of an attempt, or the one that watches it."""
    with suppress(SQLAlchemyError, ProcessLookupError), bench.ledger() as session:
        running = session.execute(select(Job.id, Job.worker).where(IS_LEASED)).all()
        if not running:
            return
        job_id, worker = running[step.which % len(running)]
        slot = int(worker.rpartition("/")[2].partition("-")[0])
        if step.do == "kill a slot":
            os.kill(slot, signal.SIGKILL)
        elif step.do == "kill an attempt" and (runs := bench.runs(job_id)):
            os.kill(runs[-1][1], signal.SIGKILL)
        elif step.do == "freeze a slot":
            os.kill(slot, signal.SIGSTOP)


@dataclass
class Work:
    """What people do while things fail; they may be told to come back later, but no nonsense."""

    bench: Bench
    person: Person
    jobs: list[UUID] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def do(self, step: Step) -> None:
        mine = {"owner_id": self.person.id}
        submit: dict[str, Callable[[], UUID]] = {
            "nap": lambda: self.bench.submit(probes.nap, seconds=step.lasts, **mine),
            "idle nap": lambda: self.bench.submit(probes.idle_nap, seconds=step.lasts, **mine),
            "urgent nap": lambda: self.bench.submit(probes.urgent_nap, seconds=step.lasts, **mine),
            "walk": lambda: self.bench.submit(
                probes.walk, count=2 + step.which % 5, seconds=step.lasts, **mine
            ),
            "flaky": lambda: self.bench.submit(probes.flaky, failures=step.which % 4, **mine),
            "crash": lambda: self.bench.submit(probes.crash, by="kill", **mine),
            "batch": lambda: self.bench.submit_batch(
                probes.nap,
                [(f"item {n}", {"seconds": step.lasts / 4}) for n in range(1 + step.which % 8)],
                **mine,
            ),
        }
        if step.do in submit:
            # Refused is refused: what was not accepted is nobody's to find.
            with suppress(SQLAlchemyError, Unavailable):
                self.jobs.append(submit[step.do]())
            return
        with suppress(httpx.TransportError):
            self._ask(step)

    def _ask(self, step: Step) -> None:
        http = self.person.http
        if step.do == "compress":
            files = [("files", ("form.pdf", PDF.read_bytes(), "application/pdf"))]
            answer = http.post("/api/compress/bulk", files=files)
            if answer.status_code == 202:
                self.jobs.append(UUID(answer.json()["job_id"]))
                self.bench.accepted.add(self.jobs[-1])
            self.answers.append(answer.status_code)
            return
        if not self.jobs:
            return
        job_id = self.jobs[step.which % len(self.jobs)]
        if step.do == "delete":
            # It may be done although the answer is lost.
            self.bench.deleted.add(job_id)
            answer = http.delete(f"/api/jobs/{job_id}")
        elif step.do == "retry":
            answer = http.post(f"/api/jobs/{job_id}/retry")
        else:
            answer = http.post(f"/api/jobs/{job_id}/cancel", json={"terminate": step.do == "force"})
        self.answers.append(answer.status_code)
