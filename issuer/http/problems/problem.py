"""Errors as RFC 9457 problem details: the one place where an error body of the API is made.

Beside type, title, status and detail each carries ``error``, the plain string that integrations compare
with, and ``code``, a stable name that never changes its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from issuer.contract.outcomes import COUPON_HTTP, HTTP, HttpAnswer, Outcome

MEDIA_TYPE: Final = "application/problem+json"

TITLES: Final[dict[str, str]] = {
    "unparsable_json": "The body is not a JSON object",
    "invalid_batch_id": "The id of the batch is not a UUID",
    "invalid_campaign_id": "The id of the campaign is not a UUID",
    "invalid_client_id": "The id of the client is not a UUID",
    "invalid_customer_id": "The id of the customer is not a UUID",
    "invalid_job_id": "The id of the job is not a UUID",
    "invalid_idempotency_key": "The Idempotency-Key cannot be used",
    "invalid_request": "The request is not valid",
    "invalid_rules": "The rules are not valid",
    "invalid_cursor": "The cursor is not one that this list gave",
    "no_csv_file": "The upload has no file",
    "not_a_csv_file": "The uploaded file is not a CSV",
    "no_batch_name": "The upload has no batch name",
    "missing_csv_columns": "The CSV lacks a column",
    "unauthorized": "An API key is needed",
    "scope_missing": "The API key lacks a scope",
    "bound_key": "The API key is bound to one client",
    "batch_shared": "Others have codes in this batch",
    "batch_ended": "The batch was ended, and that is final",
    "load_refused": "The codes cannot be loaded",
    "campaign_not_found": "There is no such campaign",
    "invalid_campaign": "The campaign cannot be as it was asked for",
    "unsupported_media_type": "The body is of a kind that is not read here",
    "too_many_streams": "Too many streams are open",
    "code_space_too_small": "There are too few codes of this form",
    "job_not_found": "There is no such job",
    "job_id_reused": "The id of the job was used for another one",
    "too_many_jobs": "Too many jobs are waiting",
    "code_not_found": "No batch has this code",
    "code_not_valid": "The code is not valid",
    "rate_limited": "Too many requests",
    "too_many_failed_lookups": "Too many look-ups of codes that do not exist",
    "coupon_exists": "The client has a coupon with this code",
    "coupon_deleted": "The coupon was deleted, and that is final",
    "coupon_in_use": "More of the coupon was used than there would be",
    "client_id_needed": "Only client_id can tell which coupon is meant",
    "consumption_not_found": "There is no such consumption",
    "already_reversed": "The consumption was reversed before",
    "backlog_not_empty": "Redemptions are not in the ledger yet",
    "not_found": "There is nothing at this address",
    "method_not_allowed": "The method is not supported here",
    "request_timeout": "The request did not arrive in time",
    "body_too_large": "The body is too large",
    "head_too_large": "The request's head is too large",
    "malformed_request": "The request is not valid HTTP",
    "does_not_fit": "The codes do not fit into Redis",
    "postgres_unavailable": "Postgres cannot be reached",
    "too_many_connections": "The server has too many connections",
    "report_too_large": "The report has too many rows for this format",
    "report_failed": "The report could not be written",
    "report_timeout": "The report took too long",
    "internal_error": "Something went wrong in the server",
    **{answer.code: answer.error.capitalize() for answer in [*COUPON_HTTP.values(), *HTTP.values()]},
    "idempotency_key_reused": "The Idempotency-Key was used for something else",
}
"""Every `code` with its title. The docs page and the OpenAPI document list them."""


class ProblemError(Exception):
    """Ends a request with a problem. `error` is shown to the caller: it must hold no secret."""

    def __init__(
        self,
        status: int,
        error: str,
        code: str,
        *,
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.code = code
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = dict(members or {})

    def body(self) -> bytes:
        return problem_body(self.status, self.error, self.code, detail=self.detail, members=self.members)

    def response(self) -> Response:
        return Response(self.body(), self.status, headers=self.headers, media_type=MEDIA_TYPE)


def problem_body(
    status: int, error: str, code: str, *, detail: str | None = None, members: Mapping[str, Any] | None = None
) -> bytes:
    """The body of a problem. Raises KeyError for a code that TITLES does not know."""
    return orjson.dumps(
        {
            "type": f"/docs#problem-{code}",
            "title": TITLES[code],
            "status": status,
            "detail": detail or error,
            "error": error,
            "code": code,
            **(members or {}),
        }
    )


def outcome_problem(outcome: Outcome, table: Mapping[Outcome, HttpAnswer] = HTTP) -> ProblemError:
    """The problem that tells an outcome of a redemption other than GRANTED and REPLAYED, or one of another table."""
    answer = table[outcome]
    headers = {} if answer.retry_after_s is None else {"Retry-After": str(answer.retry_after_s)}
    return ProblemError(answer.status, answer.error, answer.code, headers=headers)


def not_ready(detail: str | None = None) -> ProblemError:
    """503: Redis or Postgres cannot be used now."""
    problem = outcome_problem(Outcome.NOT_READY)
    problem.detail = detail
    return problem


def invalid(error: str, code: str = "invalid_request") -> ProblemError:
    """400 with a message that says what is wrong."""
    return ProblemError(400, error, code)


_BY_STATUS: Final = {
    400: ("invalid request", "invalid_request"),
    404: ("not found", "not_found"),
    405: ("method not allowed", "method_not_allowed"),
    413: ("body too large", "body_too_large"),
}


def status_problem(status: int, detail: str | None = None, headers: Mapping[str, str] | None = None) -> ProblemError:
    """The problem for an HTTP error that the framework raised."""
    error, code = _BY_STATUS.get(status, (HTTPStatus(status).phrase.lower(), "invalid_request"))
    if status == 400 and detail:
        error = detail
    return ProblemError(status, error, code, detail=detail, headers=headers)


async def answer_problem(_: Request, error: Exception) -> Response:
    """Exception handler for ProblemError."""
    if not isinstance(error, ProblemError):
        raise TypeError(f"not a problem: {error!r}")
    # Some are made once and raised again and again: each raise would keep its frames, and all before it, for ever.
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error.response()


async def answer_crash(_: Request, __: Exception) -> Response:
    """Exception handler for everything unforeseen. Says nothing about the cause: that is for the log."""
    return ProblemError(500, "internal error", "internal_error").response()
