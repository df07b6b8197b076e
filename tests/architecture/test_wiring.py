"""The table of contents names everything that is there."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

import backend
from backend import wiring
from backend.http.api import Blueprint
from backend.jobs import Schedule
from backend.jobs.kinds import JobKind


def modules() -> list[ModuleType]:
    names = [
        found.name
        for found in pkgutil.walk_packages(backend.__path__, "backend.")
        if ".migrations" not in found.name
    ]
    return [importlib.import_module(name) for name in names]


def instances(kind: type[Any]) -> set[Any]:
    """All module-level values of a type in the whole of the backend."""
    return {
        value for module in modules() for value in vars(module).values() if isinstance(value, kind)
    }


def test_every_declared_kind_of_job_is_wired() -> None:
    assert instances(JobKind) == set(wiring.JOB_KINDS)


def test_every_blueprint_is_wired() -> None:
    assert instances(Blueprint) == set(wiring.BLUEPRINTS)


def test_every_schedule_is_wired_and_names_a_wired_kind() -> None:
    found = {
        value.name
        for module in modules()
        for value in vars(module).values()
        if isinstance(value, Schedule)
    }
    assert found == {schedule.name for schedule in wiring.SCHEDULES}
    assert all(schedule.kind in wiring.JOB_KINDS for schedule in wiring.SCHEDULES)
