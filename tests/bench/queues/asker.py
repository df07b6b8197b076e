"""One who asks for jobs at a steady pace, in a process of its own.

    python -m tests.bench.queues.asker HOST PORT TOKEN SECONDS PER_SECOND JOB …

Requests are `GET /api/jobs/<id>` over one connection. One that is held up delays the next, which
then counts from its own beginning: so a server that cannot keep the pace shows what it takes.
"""

import itertools
import json
import sys
import time

from tests.bench.queues.web import Person


def main(host: str, port: str, token: str, seconds: str, per_second: str, *jobs: str) -> None:
    """Ask, and write down how long each answer took."""
    person = Person((host, int(port)), token)
    pause, began, took = 1 / float(per_second), time.monotonic(), []
    for number, job in enumerate(itertools.cycle(jobs)):
        if time.monotonic() - began > float(seconds):
            break
        time.sleep(max(0.0, began + number * pause - time.monotonic()))
        took.append(person.get(f"/api/jobs/{job}").ms)
    sys.stdout.write(json.dumps({"ms": took}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
