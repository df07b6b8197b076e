"""What a declaration promises, and what it refuses."""

from datetime import timedelta
from pathlib import Path

import pytest
from marshmallow import Schema, fields

from backend.errors import Unavailable
from backend.jobs import JobContext, Queue, Retry, job
from backend.jobs.kinds import PRIORITY, DeclarationError, Kinds
from tests.unit.jobs import probes


class PageParams(Schema):
    page = fields.Integer(required=True)


@job("probe.read_page", params=PageParams, stages={"open": 1, "read": 3})
def read_page(ctx: JobContext, *, page: int) -> dict[str, object]:
    """Read a page."""
    (ctx.workspace / "page").write_text(str(page))
    return {"page": page, "attempt": ctx.attempt}


def test_calling_a_kind_calls_its_function_which_is_its_unit_test(tmp_path: Path) -> None:
    assert read_page(JobContext(folder=tmp_path), page=3) == {"page": 3, "attempt": 1}
    assert (tmp_path / "page").read_text() == "3"


def test_what_is_not_said_has_a_good_default() -> None:
    assert read_page.title == "Read page"
    assert (read_page.queue, read_page.priority) == (Queue.DEFAULT, PRIORITY[Queue.DEFAULT])
    assert read_page.retry.on == (Unavailable,)
    assert read_page.hard_limit == read_page.soft_limit * 1.2


def test_a_kind_of_another_queue_has_its_priority_unless_it_says_otherwise() -> None:
    assert probes.urgent.priority == PRIORITY[Queue.HIGH]
    paid = job("probe.paid", params=PageParams, priority=9)(read_page.function)
    assert (paid.queue, paid.priority) == (Queue.DEFAULT, 9)


@pytest.mark.parametrize("name", ["read", "Probe.read", "probe.read.page", "probe.", ""])
def test_a_name_that_is_not_domain_and_verb_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match=r"domain\.verb_noun"):
        job(name, params=PageParams)(read_page.function)


def test_a_parameter_that_the_schema_lacks_is_refused() -> None:
    def extra(ctx: JobContext, *, page: int, zoom: int) -> None: ...

    with pytest.raises(
        DeclarationError, match=r"\['page'\], the function takes \['page', 'zoom'\]"
    ):
        job("probe.extra", params=PageParams)(extra)


def test_a_field_that_the_function_does_not_take_is_refused() -> None:
    def lacking(ctx: JobContext) -> None: ...

    with pytest.raises(DeclarationError, match=r"has \['page'\]"):
        job("probe.lacking", params=PageParams)(lacking)


def test_a_parameter_that_could_be_positional_is_refused() -> None:
    def positional(ctx: JobContext, page: int) -> None: ...

    with pytest.raises(DeclarationError, match="page must be keyword-only"):
        job("probe.positional", params=PageParams)(positional)


def test_a_kind_declared_twice_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"declared twice: probe\.read_page"):
        Kinds((read_page, probes.echo, read_page))


def test_kinds_are_found_by_name() -> None:
    kinds = Kinds((read_page, probes.echo))
    assert kinds["probe.read_page"] is read_page
    assert list(kinds) == ["probe.read_page", "probe.echo"]
    assert "probe.none" not in kinds


def test_waits_double_from_the_delay_up_to_the_longest() -> None:
    retry = Retry(delay=10, max_delay=60)
    for failed, longest in [(1, 10), (2, 20), (3, 40), (4, 60), (50, 60), (100_000, 60)]:
        waits = [retry.wait_seconds(failed) for _ in range(200)]
        assert longest / 2 <= min(waits) <= max(waits) <= longest


def test_waits_are_spread_so_that_failures_of_one_moment_do_not_come_back_together() -> None:
    waits = {round(Retry(delay=100).wait_seconds(1)) for _ in range(200)}
    assert len(waits) > 20


def test_stages_share_the_bar_in_their_order() -> None:
    assert read_page.share("open") == (0.0, 0.25)
    assert read_page.share("read") == (0.25, 0.75)


def test_a_stage_that_was_not_declared_is_refused() -> None:
    with pytest.raises(DeclarationError, match="no stage 'write'; it declares open, read"):
        read_page.share("write")


def test_limits_are_as_declared() -> None:
    kind = job("probe.slow", params=PageParams, soft_limit=timedelta(seconds=5))(read_page.function)
    assert kind.hard_limit == timedelta(seconds=6)
