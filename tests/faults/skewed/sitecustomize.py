"""Python starts with the application's clock off by SKEW_SECONDS; the database keeps its own.

Python's own `datetime` cannot be replaced: libraries in C and Rust build on it.
"""

import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

SECONDS = int(os.environ.get("SKEW_SECONDS", "0"))
_time, _time_ns = time.time, time.time_ns


class SkewedClock:
    """Finds `backend.clock`, and turns it back or forward."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == "backend.clock" else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_turn(module: ModuleType) -> None:
            execute(module)
            now = module.utc_now
            module.utc_now = lambda: now() + timedelta(seconds=SECONDS)  # type: ignore[attr-defined]
            print("skewed by", SECONDS, file=sys.stderr)

        spec.loader.exec_module = execute_and_turn  # type: ignore[method-assign]
        return spec


if SECONDS:
    time.time = lambda: _time() + SECONDS
    time.time_ns = lambda: _time_ns() + SECONDS * 10**9
    sys.meta_path.insert(0, SkewedClock)  # type: ignore[arg-type]
