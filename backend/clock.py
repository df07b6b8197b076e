"""The time of this process. What a lease or a schedule needs is the database's time instead."""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)
