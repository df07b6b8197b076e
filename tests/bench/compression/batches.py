"""How much of this machine's cores the workers use for one batch, on a stack as it is deployed.

A web server, one worker with a slot for each core, and beat; SQLite and a broker of their own. The
time is from the start of the batch's first file to the end of its last one, as the ledger has it;
the CPU is that of the worker and of everything below it, in which the renderer is.
"""

import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.bench.queues.processes import Broken
from tests.bench.queues.servers import PostgreSQL
from tests.bench.queues.systems import Places, Site
from tests.bench.queues.web import Person, Web

CORES = os.cpu_count() or 1
TICKS = os.sysconf("SC_CLK_TCK")  # a second
SAMPLE_SECONDS = 0.1
READY_SECONDS = 5.0  # for the worker; what it takes to start is not measured
BATCH_SECONDS = 3600.0


@dataclass(frozen=True)
class Share:
    """The workers' CPU, in core-seconds, in the seconds that a batch took."""

    files: int
    succeeded: int
    megabytes: float
    seconds: float
    cpu: float
    cores: int = CORES

    def __str__(self) -> str:
        return (
            f"A batch of {self.files} files, {self.megabytes:.1f} MB ({self.succeeded} succeeded):"
            f" from the first start to the last end the workers used"
            f" {self.cpu / self.seconds / self.cores:.1%} of {self.cores} cores"
            f" ({self.seconds:.1f} s, {self.cpu:.1f} s of CPU)."
        )


def measure(files: Sequence[Path], count: int, level: str, quality: int) -> Share:
    """Send a batch of `count` files, each file again and again if there are fewer."""
    with ExitStack() as ending:
        places = Places(Path(), PostgreSQL(ending))
        site = ending.enter_context(places.site("sluice-sqlite"))
        web = Web(site)
        web.start()
        person = web.sign_up()
        site.start_workers()
        time.sleep(READY_SECONDS)
        contents = [
            # The comment makes each another file.
            files[number % len(files)].read_bytes() + f"\n%{number}\n".encode()
            for number in range(count)
        ]
        with _Meter(site.processes.running["worker-0"].pid) as meter:
            job_id = _sent(person, contents, level, quality)
            _wait(site, person, job_id)
        jobs = _children(person, job_id)
    began = min(_seconds(job["started_at"]) for job in jobs)
    ended = max(_seconds(job["ended_at"]) for job in jobs)
    return Share(
        files=count,
        succeeded=sum(job["state"] == "SUCCESS" for job in jobs),
        megabytes=sum(map(len, contents)) / 1e6,
        seconds=ended - began,
        cpu=meter.at(ended) - meter.at(began),
    )


def _sent(person: Person, contents: Sequence[bytes], level: str, quality: int) -> str:
    host, port = person.address
    answer = httpx.post(
        f"http://{host}:{port}/api/compress/bulk",
        headers={"Authorization": f"Bearer {person.token}"},
        data={"compression_level": level, "image_quality": str(quality)},
        files=[
            ("files", (f"{number}.pdf", content, "application/pdf"))
            for number, content in enumerate(contents)
        ],
        timeout=BATCH_SECONDS,
        trust_env=False,
    )
    if answer.status_code != httpx.codes.ACCEPTED:
        raise Broken(f"the batch was not taken: {answer.status_code} {answer.text[:300]}")
    return str(answer.json()["job_id"])


def _wait(site: Site, person: Person, job_id: str) -> None:
    until = time.monotonic() + BATCH_SECONDS
    while person.get(f"/api/jobs/{job_id}").content["job"]["ended_at"] is None:
        site.processes.check()
        if time.monotonic() > until:
            raise Broken(f"the batch did not end within {BATCH_SECONDS:g} s")
        time.sleep(1)


def _children(person: Person, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    more: dict[str, Any] = {}
    while True:
        page = person.get(f"/api/jobs/{job_id}/children", **more).content
        found += page["jobs"]
        if page["next_cursor"] is None:
            return found
        more = {"cursor": page["next_cursor"]}


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


@dataclass
class _Meter:
    """The CPU of a process and of all below it, sampled; what has ended counts as last seen."""

    pid: int
    samples: list[tuple[float, float]] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "_Meter":
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def at(self, moment: float) -> float:
        """The seconds of CPU until then."""
        return min(self.samples, key=lambda sample: abs(sample[0] - moment))[1]

    def _sample(self) -> None:
        used: dict[int, float] = {}
        while not self._is_over.wait(SAMPLE_SECONDS):
            parents, spent = _processes()
            below, more = set(), {self.pid, *used}
            while more:
                below |= more
                more = {pid for pid, parent in parents.items() if parent in more} - below
            used |= {pid: spent[pid] for pid in below if pid in spent}
            self.samples.append((time.time(), sum(used.values())))


def _processes() -> tuple[dict[int, int], dict[int, float]]:
    """Of all processes the parent, and the seconds of CPU."""
    parents, spent = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            words = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parents[pid] = int(words[1])
            spent[pid] = (int(words[11]) + int(words[12])) / TICKS
    return parents, spent
