"""The schedules of the fault bench."""

from typing import Literal

from backend.jobs import Schedule
from tests.integration.probes import tick

POLICIES: tuple[Literal["skip", "once", "all"], ...] = ("skip", "once", "all")
EACH_SECOND = Schedule(name="each_second", cron="* * * * * *", kind=tick, catch_up="all")
HALF_HOURLY = tuple(
    Schedule(name=policy, cron="*/30 * * * *", kind=tick, catch_up=policy) for policy in POLICIES
)
