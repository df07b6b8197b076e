"""The whole application on one machine: what scripts/up starts and scripts/down stops."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class StackError(Exception):
    """The application cannot be started here; the message says why and what to do."""
