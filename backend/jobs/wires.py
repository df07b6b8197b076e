"""A watcher's connection, written and read without ever waiting for it."""

import socket
import time

from backend.jobs.follower import Follower

KERNEL_BYTES = 64 * 1024


class Wire:
    """A follower's connection. Nothing here waits for it."""

    def __init__(self, connection: socket.socket, follower: Follower) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
        self.connection = connection
        self.follower = follower
        self.unsent = b""
        self.is_ending = False
        self.is_gone = False
        self.moved_at = time.monotonic()
        self.ends_at = self.moved_at + follower.log_in.seconds_left

    @property
    def is_free(self) -> bool:
        """Whether more can be told: all that was is taken."""
        return not (self.unsent or self.is_ending or self.is_gone)

    def say(self, said: str) -> None:
        """Send what the connection takes, and keep the rest."""
        self.unsent += said.encode()
        self.flush()

    def flush(self) -> None:
        """Send what the connection takes of what was kept."""
        try:
            taken = self.connection.send(self.unsent) if self.unsent else 0
        except BlockingIOError:
            return
        except OSError:
            self.is_gone = True
            return
        self.unsent = self.unsent[taken:]
        self.moved_at = time.monotonic()
        self.is_gone = self.is_ending and not self.unsent

    def end(self, last_words: str = "") -> None:
        """Say no more than this, and hang up once it is taken."""
        self.is_ending = True
        self.say(last_words)

    def hear(self) -> None:
        """Read, to see a hang-up; what a watcher sends is of no interest."""
        try:
            self.is_gone = self.is_gone or not self.connection.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            self.is_gone = True
