"""What workers and stewards count. Web processes add their own and serve them all (see `ops`)."""

from prometheus_client import Counter, Histogram

ATTEMPTS = Counter("sluice_attempts", "Ended attempts.", ["kind", "outcome"])
ATTEMPT_SECONDS = Histogram(
    "sluice_attempt_duration_seconds",
    "How long attempts ran.",
    ["kind"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600),
)


def count_attempt(kind: str, outcome: str, seconds: float) -> None:
    """Count an attempt that has ended."""
    ATTEMPTS.labels(kind, outcome).inc()
    ATTEMPT_SECONDS.labels(kind).observe(seconds)


STEWARD_ACTIONS = Counter("sluice_steward_actions", "What stewards mended.", ["duty"])
RINGS = Counter("sluice_rings", "Doorbells rung.", ["queue", "outcome"])
