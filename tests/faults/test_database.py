"""A database that crashes, stands still or is locked; clocks that are apart."""

import select
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import sqlalchemy as sa

from backend.db import transaction
from backend.jobs import Queue, submit
from backend.jobs.kinds import Kinds
from backend.jobs.models import Job
from tests.faults.bench import Bench, elapsed, until
from tests.integration import probes

pytestmark = [pytest.mark.integration, pytest.mark.timeout(150)]

Gate = Callable[..., UUID]
Begun = Callable[..., int]
Go = Callable[[], None]

PDF = Path(__file__).parents[1] / "fixtures/pdf/form.pdf"
SKEWED = Path(__file__).with_name("skewed")


@pytest.mark.row(13)
def test_a_result_is_kept_while_the_database_is_away_for_less_than_the_lease(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate()
    pid = begun()
    with bench.without_database():
        go()
        # It has tried to write by then, and found no database.
        time.sleep(bench.lease / 4)

    bench.assert_done_once(job_id)
    assert bench.runs(job_id) == [(1, pid)]


@pytest.mark.row(13)
@pytest.mark.named_times
def test_after_the_lease_a_job_whose_database_was_away_is_run_again_cleanly(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    job_id = gate()
    begun()
    with bench.without_database():
        go()
        time.sleep(bench.lease + bench.heartbeat)

    bench.assert_done_once(job_id, seconds=bench.lease + 5)
    assert not bench.ended()


@pytest.mark.row(13)
def test_a_database_that_stands_still_holds_things_up_and_loses_nothing(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    if bench.server is None:
        pytest.skip("SQLite has no process that could stand still")
    job_id = gate()
    begun()
    waiting = bench.submit(probes.nap, seconds=0.0)
    with bench.database_frozen():
        go()
        time.sleep(bench.heartbeat)

    bench.assert_done_once(job_id, waiting, seconds=bench.lease + 10)


@pytest.mark.row(14)
def test_a_commit_whose_confirmation_is_lost_is_one_end(
    bench: Bench, gate: Gate, begun: Begun, go: Go, tmp_path: Path
) -> None:
    if bench.server is None:
        pytest.skip("SQLite has no connection that could break between a commit and its answer")
    address = f"{bench.server.folder}/.s.PGSQL.5432"
    bench.kill("default")
    with Breaking.proxy(address) as proxy:
        url = bench.database_url.replace(str(bench.server.folder), str(proxy.folder))
        bench.start("spare", DATABASE_URL=url)
        until(lambda: bench.has_reported("spare"), "the worker behind the proxy is there", 40)
        job_id = gate()
        begun()
        proxy.break_after_next_commit_with(b"succeeded")
        go()
        bench.assert_done_once(job_id)
        assert proxy.broken == 1
        assert len(bench.runs(job_id)) == 1
        bench.kill("spare")


class Breaking:
    """A proxy before PostgreSQL that can break a connection between a commit and its answer."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address, folder
        self.sign = b""
        self.broken = 0

    @classmethod
    @contextmanager
    def proxy(cls, address: str) -> Iterator["Breaking"]:
        with (
            tempfile.TemporaryDirectory(prefix="sluice-proxy-") as folder,
            socket.socket(socket.AF_UNIX) as listener,
            ThreadPoolExecutor(50) as pool,
        ):
            proxy = cls(address, Path(folder))
            listener.bind(f"{folder}/.s.PGSQL.5432")
            listener.listen(50)
            pool.submit(proxy._accept, listener, pool)
            try:
                yield proxy
            finally:
                listener.shutdown(socket.SHUT_RDWR)

    def break_after_next_commit_with(self, sign: bytes) -> None:
        """Of a transaction whose statements bring these bytes."""
        self.sign = sign

    def _accept(self, listener: socket.socket, pool: ThreadPoolExecutor) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                pool.submit(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self.address)
            seen = lost = False
            while True:
                ready, _, _ = select.select([client, server], [], [])
                if server in ready and lost:
                    return  # the answer has come, and does not go on
                for source, sink in ((client, server), (server, client)):
                    if source not in ready:
                        continue
                    if not (said := source.recv(65536)):
                        return
                    if source is client and self.sign:
                        seen = seen or self.sign in said
                        if seen and b"COMMIT" in said:
                            self.sign, lost = b"", True
                            self.broken += 1
                    sink.sendall(said)


@pytest.mark.row(15)
def test_a_ledger_that_is_locked_for_ten_seconds_costs_nobody_an_error(
    bench: Bench, gate: Gate, begun: Begun, go: Go
) -> None:
    person = bench.sign_in()
    running = gate()
    begun()
    done = bench.submit(probes.nap, seconds=0.0, owner_id=person.id)
    bench.assert_done_once(done)

    def send(_: int) -> httpx.Response:
        files = [("files", ("form.pdf", PDF.read_bytes(), "application/pdf"))]
        return person.http.post("/api/compress/bulk", files=files)

    with ThreadPoolExecutor(6) as pool:
        with bench.locked():
            go()
            answers = pool.map(send, range(6))
            seen = elapsed(lambda: httpx.get(f"{bench.url}/healthz", timeout=15))
            time.sleep(10)
        sent = list(answers)

    assert seen[1].status_code == 200
    assert {answer.status_code for answer in sent} == {202}
    bench.assert_done_once(running)
    for answer in sent:
        bench.wait_for(UUID(answer.json()["job_id"]), "succeeded")


@pytest.mark.row(18)
def test_a_job_whose_callers_transaction_rolls_back_never_runs(bench: Bench) -> None:
    job_ids = []

    def submit_and_fail() -> None:
        with bench.app.app_context(), transaction() as session:
            job_ids.append(submit(session, probes.nap, None, seconds=0.0).id)
            raise ArithmeticError

    for _ in range(5):
        with suppress(ArithmeticError):
            submit_and_fail()
    # What was submitted afterwards has run: so would they have.
    bench.assert_done_once(*[bench.submit(probes.nap, seconds=0.0) for _ in range(5)])

    assert len(job_ids) == 5
    with bench.ledger() as session:
        assert session.scalars(sa.select(Job.id).where(Job.id.in_(job_ids))).all() == []
    assert [bench.runs(job_id) for job_id in job_ids] == [[]] * 5


@pytest.mark.row(21)
@pytest.mark.parametrize("seconds", [3600, -3600])
def test_machines_whose_clocks_are_an_hour_off_expire_nothing_early_and_delay_nothing(
    bench: Bench, gate: Gate, begun: Begun, go: Go, seconds: int
) -> None:
    skewed = ("web", "default", "beat")
    for name in skewed:
        bench.kill(name)
    zone = "America/New_York" if seconds < 0 else "Europe/Berlin"
    bench.start(*skewed, PYTHONPATH=str(SKEWED), SKEW_SECONDS=str(seconds), TZ=zone)
    until(bench.ready, "the stack is ready", 40)
    job_id = gate()
    pid = begun()
    retried = bench.submit(probes.flaky, failures=1)
    bench.assert_done_once(retried, seconds=10)
    person = bench.sign_in()
    files = [("files", ("form.pdf", PDF.read_bytes(), "application/pdf"))]
    sent = UUID(person.http.post("/api/compress/bulk", files=files).json()["job_id"])
    bench.wait_for(sent, "succeeded", seconds=10)
    expires_at = bench.job(job_id).lease_expires_at
    until(lambda: bench.job(job_id).lease_expires_at != expires_at, "the lease is renewed")
    go()

    bench.assert_done_once(job_id)
    assert bench.runs(job_id) == [(1, pid)]
    for name in skewed:
        assert "skewed" in bench.log(name).read_text(), f"{name} runs with the right time"


@pytest.mark.row(23)
def test_parameters_that_no_longer_fit_fail_the_job_with_the_reason(bench: Bench) -> None:
    bench.kill("default")
    job_id = bench.submit(probes.nap, seconds=0.0)
    with bench.app.app_context(), transaction() as session:
        session.execute(sa.update(Job).where(Job.id == job_id).values(params={"seconds": "soon"}))
    bench.start("default")
    job = bench.wait_for(job_id, "failed")

    assert job.error_code == "invalid_params"
    assert "seconds" in str(job.error)
    bench.assert_done_once(bench.submit(probes.nap, seconds=0.0))


@pytest.mark.row(23)
def test_a_kind_that_this_version_does_not_know_fails_with_the_reason(bench: Bench) -> None:
    kinds = bench.app.extensions["sluice.kinds"]
    newer = probes.job("probe.newer", params=probes.NoParams)(lambda ctx: {})
    bench.app.extensions["sluice.kinds"] = Kinds((*kinds.values(), newer))
    job_id = bench.submit(newer)
    bench.app.extensions["sluice.kinds"] = kinds
    job = bench.wait_for(job_id, "failed")

    assert job.error_code == "unknown_kind"
    assert "probe.newer" in str(job.error)
    bench.assert_done_once(bench.submit(probes.nap, seconds=0.0))
    assert job.queue == Queue.DEFAULT
