"""Whatever is sent to any call of the OpenAPI document, the answer is never a 5xx."""

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from tests.contract.http.service import Service

# Streams do not end by themselves; a log-out would end the run's own session; readiness says
# 503 where there are no workers.
LEFT_OUT = r"(/events|/auth/logout|/readyz)$"
LONGEST_WAIT = 0.01  # a long poll would hold the test

EXAMPLES = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(240)
def test_no_request_is_answered_with_a_5xx(service: Service) -> None:
    ann = service.sign_in()
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", service.app)
    schema.config.update(headers={"Authorization": f"Bearer {ann.access_token}"})
    answers: Counter[int] = Counter()
    for found in schema.exclude(path_regex=LEFT_OUT).get_all_operations():
        operation = found.ok()

        @EXAMPLES
        @given(case=operation.as_strategy())
        def answers_below_500(case: schemathesis.Case) -> None:
            if isinstance((case.query or {}).get("wait"), int | float):
                case.query["wait"] = min(case.query["wait"], LONGEST_WAIT)
            response = case.call()
            answers[response.status_code] += 1
            case.validate_response(response, checks=[not_a_server_error])

        answers_below_500()
    # What was sent got past the door, and both what is right and what is wrong was among it.
    assert answers.keys() >= {200, 404, 422}, answers
    assert answers[401] < answers.total() / 4, answers
