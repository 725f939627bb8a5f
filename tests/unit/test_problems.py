"""Problem details: their form, and one for each outcome."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

import issuer
from issuer.contract.outcomes import COUPON_HTTP, HTTP, Outcome
from issuer.http.problems.problem import TITLES, ProblemError, outcome_problem, problem_body, status_problem
from issuer.http.wire import limit_problem

PACKAGE = Path(issuer.__file__).parent
READ_AS_ID = re.compile(
    r'\b(?:path_id|uuid_of|bad_id|id_field|identify|identity_field)\((?:[^()"]|"(?=[^"]*"\])|\([^()]*\)|\[[^\]]*\])*"(\w+)"'
)
"""What is read as an id, by the name that the code of a refusal has."""


@pytest.mark.parametrize("outcome", HTTP)
def test_each_refusal_has_a_problem(outcome: Outcome) -> None:
    problem = outcome_problem(outcome)
    body = orjson.loads(problem.body())
    assert body["status"] == problem.status == HTTP[outcome].status
    assert body["error"] == HTTP[outcome].error
    assert body["type"] == f"/docs#problem-{body['code']}"
    assert ("Retry-After" in problem.headers) == (problem.status == 503)


def test_granted_and_replayed_have_no_problem() -> None:
    of_coupons = {Outcome.WRONG_PRODUCT, Outcome.USABLE}
    assert set(Outcome) - set(HTTP) == {Outcome.GRANTED, Outcome.REPLAYED} | of_coupons
    assert set(Outcome) - set(COUPON_HTTP) == {Outcome.GRANTED, Outcome.REPLAYED, Outcome.USABLE}


def test_a_code_without_a_title_is_refused() -> None:
    with pytest.raises(KeyError):
        problem_body(400, "text", "no_such_code")


def test_every_code_in_the_source_has_a_title_and_is_used() -> None:
    source = (
        "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "problem.py")
        + (PACKAGE / "http" / "problems" / "problem.py").read_text().partition("class ProblemError")[2]
    )
    quoted = set(re.findall(r'"([a-z_]+)"', source))
    # A value that is no id is an invalid_ and its name.
    computed = {f"invalid_{name}" for name in READ_AS_ID.findall(source)}
    assert set(TITLES) <= quoted | computed
    assert computed <= set(TITLES)


def test_members_are_added() -> None:
    problem = ProblemError(503, "text", "not_ready", detail="more", members={"batch_id": "x"})
    assert orjson.loads(problem.body())["batch_id"] == "x"
    assert orjson.loads(problem.body())["detail"] == "more"


def test_a_limit_with_an_end_returns_its_time_and_whole_seconds() -> None:
    problem = limit_problem(32_503_680_000_001)
    assert problem.members["retry_at"] == "3000-01-01T00:00:00.001Z"
    assert int(problem.headers["Retry-After"]) > 0
    assert limit_problem(0).headers["Retry-After"] == "1"


def test_statuses_of_the_framework_keep_their_headers() -> None:
    problem = status_problem(405, headers={"Allow": "GET"})
    assert problem.response().headers["allow"] == "GET"
    assert problem.code == "method_not_allowed"
