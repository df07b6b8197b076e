"""Passwords: argon2id with the parameters that RFC 9106 recommends for little memory."""

import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from backend.errors import Unavailable

MIN_LENGTH = 8
MAX_LENGTH = 1024

HASHER = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)

# A hash takes 64 MiB, so that a rush of log-ins could exhaust a machine: they wait in line.
AT_ONCE = 4
PATIENCE_SECONDS = 10
_slots = BoundedSemaphore(AT_ONCE)


def hash_password(password: str) -> str:
    """Return a new salted hash; raise Unavailable if too many are being computed."""
    with _slot():
        return HASHER.hash(password)


def verify(password_hash: str | None, password: str) -> bool:
    """Whether the password is the hash's. None, for no account, takes as long and is never so."""
    with _slot():
        try:
            return HASHER.verify(password_hash or NOBODYS, password)
        except (VerificationError, InvalidHashError):
            return False


def is_outdated(password_hash: str) -> bool:
    """Whether a hash was made with other parameters than new ones are."""
    return HASHER.check_needs_rehash(password_hash)


@contextmanager
def _slot() -> Iterator[None]:
    if not _slots.acquire(timeout=PATIENCE_SECONDS):
        raise Unavailable("Too many people are signing in at this moment; try again shortly.")
    try:
        yield
    finally:
        _slots.release()


def _nobodys_hash() -> str:
    """Random bytes in the form of a hash: as costly to verify, and no password is known for it."""
    salt, digest = (
        b64encode(os.urandom(length)).decode().rstrip("=")
        for length in (HASHER.salt_len, HASHER.hash_len)
    )
    costs = f"m={HASHER.memory_cost},t={HASHER.time_cost},p={HASHER.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${digest}"


NOBODYS = _nobodys_hash()
