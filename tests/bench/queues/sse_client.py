"""A thousand Server-Sent Events connections held by one thread, in a process of its own.

    python -m tests.bench.queues.sse_client HOST PORT PLAN

PLAN is a file of JSON: a list of `{"path": …, "token": …}`, one for each connection. The line
`open` goes out on standard error once every stream has begun. At SIGTERM, standard output has one
JSON: per connection its status, the state events that came, as `[job, "state attempt"]` in their
order, and their lag in ms (by the clock of the wall).
"""

import asyncio
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

OPEN_AT_ONCE = 50


@dataclass
class Stream:
    """What came over one connection."""

    path: str
    status: int = 0
    states: list[tuple[str, str]] = field(default_factory=list)
    lag_ms: list[float] = field(default_factory=list)
    ended: bool = False
    error: str = ""

    async def follow(self, address: tuple[str, int], token: str, gate: "Gate") -> None:
        """Open the stream and read it to its end."""
        try:
            async with gate.opening:
                reader, writer = await asyncio.open_connection(*address, limit=2**20)
                writer.write(
                    f"GET {self.path} HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n"
                    f"Authorization: Bearer {token}\r\n\r\n".encode()
                )
                self.status = int((await reader.readline()).split()[1])
                while (await reader.readline()).strip():
                    pass
                # The first lines of the body: from here on nothing may be missed.
                while self.status == 200 and not (await reader.readline()).startswith(b"id:"):
                    pass
            gate.one_more()
            if self.status == 200:
                await self._read(reader)
            writer.close()
        except (OSError, ValueError, IndexError, asyncio.IncompleteReadError) as error:
            self.error = repr(error)[:200]
            gate.one_more()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        event = ""
        async for raw in reader:
            if raw.startswith(b"event: "):
                event = raw[7:].strip().decode()
                if event == "end":
                    self.ended = True
                    return
            elif raw.startswith(b"data: ") and event == "state":
                said = json.loads(raw[6:])
                self.states.append((said["job_id"], f"{said['state']} {said['attempt']}"))
                at = datetime.fromisoformat(said["at"]).timestamp()
                self.lag_ms.append(round((time.time() - at) * 1000, 1))


class Gate:
    """Lets a few connect at a time, and tells when all have."""

    def __init__(self, number: int) -> None:
        self.opening = asyncio.Semaphore(OPEN_AT_ONCE)
        self._missing = number

    def one_more(self) -> None:
        """One has begun, or has failed to."""
        self._missing -= 1
        if self._missing == 0:
            sys.stderr.write("open\n")
            sys.stderr.flush()


async def main(host: str, port: str, plan: str) -> None:
    """Follow every stream of the plan."""
    wanted = json.loads(Path(plan).read_text())
    streams = [Stream(each["path"]) for each in wanted]
    gate = Gate(len(streams))
    tasks = [
        asyncio.create_task(stream.follow((host, int(port)), each["token"], gate))
        for stream, each in zip(streams, wanted, strict=True)
    ]
    asked_to_stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked_to_stop.set)
    await asked_to_stop.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    sys.stdout.write(json.dumps([asdict(stream) for stream in streams]) + "\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
