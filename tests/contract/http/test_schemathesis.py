"""What fits the OpenAPI document, and what does not: answered as it says, and never a 5xx."""

from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.contract.http.service import Caller, Service, Worker, a_file, small_pdf

# Streams do not end by themselves; a log-out would end the run's own session; readiness says
# 503 where there are no workers.
LEFT_OUT = r"(/events|/auth/logout|/readyz)$"
OPERATORS = "^/api/admin/"
LONGEST_WAIT = 0.01  # a long poll would hold the test

EXAMPLES = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
PDF = small_pdf()


@pytest.fixture
def ids(service: Service, ann: Caller, worker: Worker) -> list[dict[str, Any]]:
    """Of a finished job and of one that waits, and a document's."""
    done = ann.compress(PDF).json["job_id"]
    worker.run(service)
    waiting = ann.compress(PDF, PDF).json["job_id"]
    kept = ann.post("/api/documents", data={"file": a_file(PDF, "kept.pdf")}).json["document"]
    return [
        {"job_id": done, "document_id": kept["document_id"]},
        {"job_id": waiting, "document_id": kept["document_id"]},
    ]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", [*GenerationMode])
def test_every_answer_is_as_the_document_says(
    service: Service, ann: Caller, ids: list[dict[str, Any]], mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", service.app)
    mine = schema.exclude(path_regex=LEFT_OUT).exclude(path_regex=OPERATORS)
    answers = ask_all(mine, ann, ids, mode)
    # What was sent got past the door, and had all sorts of answers.
    wanted = {200, 202, 404, 409} if mode is GenerationMode.POSITIVE else {404, 422}
    assert answers.keys() >= wanted, answers
    assert answers[401] < answers.total() / 4, answers


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", [*GenerationMode])
def test_every_answer_to_an_operator_is_as_the_document_says(
    service: Service, root: Caller, ids: list[dict[str, Any]], mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", service.app)
    known = [{"job_id": ids[1]["job_id"], "name": name} for name in ("default", "none")]
    answers = ask_all(schema.include(path_regex=OPERATORS), root, known, mode)
    assert answers.keys() >= ({200, 404} if mode is GenerationMode.POSITIVE else {404, 422}), (
        answers
    )


def ask_all(
    schema: Any, caller: Caller, ids: list[dict[str, Any]], mode: GenerationMode
) -> Counter[int]:
    """Ask everything of a part of the document, sometimes with these ids; count the answers."""
    schema.config.update(headers=caller.bearer)
    checks = [*CHECKS, negative_data_rejection] if mode is GenerationMode.NEGATIVE else CHECKS
    answers: Counter[int] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()

        @EXAMPLES
        @given(case=operation.as_strategy(mode), known=st.sampled_from([None, *ids]))
        def fits(case: schemathesis.Case, known: dict[str, Any] | None) -> None:
            if isinstance((case.query or {}).get("wait"), int | float):
                case.query["wait"] = min(case.query["wait"], LONGEST_WAIT)
            if known and mode is GenerationMode.POSITIVE:
                asked = case.path_parameters or {}
                case.path_parameters = {name: known.get(name, asked[name]) for name in asked}
            response = case.call()
            answers[response.status_code] += 1
            case.validate_response(response, checks=checks)

        with suppress(Unsatisfiable):  # nothing can be wrong about a call that takes nothing
            fits()
    return answers
