"""Errors as RFC 9457 problem details. Every error body of the API is built here.

In addition to type, title, status and detail a problem carries `error`, the plain string that integrations compare
with, and `code`, a stable name whose meaning never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.responses import Response

from issuer.contract.outcomes import COUPON_HTTP, HTTP, HttpAnswer, Outcome

MEDIA_TYPE: Final = "application/problem+json"

TITLES: Final[dict[str, str]] = {
    "unparsable_json": "The body is not a JSON object",
    "invalid_batch_id": "The batch id is not a UUID",
    "invalid_campaign_id": "The campaign id is not a UUID",
    "invalid_client_id": "The client id is not valid",
    "invalid_customer_id": "The customer id is not valid",
    "invalid_job_id": "The job id is not a UUID",
    "invalid_idempotency_key": "The Idempotency-Key is not valid",
    "invalid_request": "The request is not valid",
    "invalid_rules": "The rules are not valid",
    "invalid_cursor": "The cursor is not valid for this list",
    "no_csv_file": "The upload has no file",
    "not_a_csv_file": "The uploaded file is neither CSV nor .xlsx",
    "no_valid_rows": "No row of the file is valid",
    "no_batch_name": "The upload has no batch name",
    "missing_csv_columns": "The file lacks a column",
    "unauthorized": "A valid API key is required",
    "multiple_credentials": "The request has more than one Authorization header",
    "scope_missing": "The API key lacks the required scope",
    "bound_key": "The API key is bound to one client",
    "client_not_found": "The client is not registered",
    "invalid_key": "The values of the API key are not valid",
    "key_not_found": "The API key does not exist",
    "invalid_operator": "The values of the operator are not valid",
    "operator_exists": "Another operator has this name",
    "operator_not_found": "The operator does not exist, or is disabled",
    "role_too_low": "The role of the operator does not allow this",
    "recovery_not_found": "The recovery does not exist",
    "run_not_found": "The run of the reconciliation does not exist",
    "not_confirmed": "The request lacks its confirmation",
    "invalid_id": "The id is neither a UUID nor a usable text",
    "id_taken": "The id is taken",
    "quota_exceeded": "The client would have more than its quota allows",
    "ambiguous_name": "Several open batches have this name",
    "origin_refused": "Pages of this site may not call the API from a browser",
    "batch_shared": "Other clients have codes in this batch",
    "batch_ended": "The batch has ended; this is final",
    "load_refused": "The codes cannot be loaded",
    "campaign_not_found": "The campaign does not exist",
    "invalid_campaign": "The campaign settings are not valid",
    "unsupported_media_type": "The media type of the body is not supported",
    "share_used": "The client has its share of what it asks for at once",
    "code_space_too_small": "The code format allows too few codes",
    "job_not_found": "The job does not exist",
    "job_id_reused": "The job id was used for another job",
    "too_many_jobs": "Too many jobs are waiting",
    "code_not_found": "No batch contains this code",
    "code_not_valid": "The code is not valid",
    "rate_limited": "Too many requests",
    "too_many_failed_lookups": "Too many look-ups of codes that do not exist",
    "coupon_exists": "The client already has a coupon with this code",
    "case_sensitivity_fixed": "Whether case counts cannot be changed",
    "coupon_deleted": "The coupon was deleted; this is final",
    "client_id_needed": "Several clients have this coupon: client_id is required",
    "consumption_not_found": "The consumption does not exist",
    "already_reversed": "It was already reversed",
    "program_not_found": "The program does not exist",
    "program_exists": "The client has a program with this name",
    "program_paused": "The program is paused or has ended",
    "program_ended": "The program has ended; this is final",
    "invalid_program": "The program is not valid",
    "invalid_terms": "The terms are not valid",
    "invalid_amount": "The amount is not valid",
    "other_currency": "The currency is not that of the program",
    "member_not_found": "The program has no such member",
    "member_exists": "The client has a member with this ref or e-mail",
    "invalid_member": "The member is not valid",
    "insufficient_points": "The account has too few points",
    "below_minimum": "The program requires more points at once",
    "not_reversible": "The entry cannot be reversed",
    "entry_not_found": "The entry does not exist",
    "hold_not_found": "The hold does not exist",
    "hold_settled": "The hold was captured or released",
    "hold_expired": "The hold has expired",
    "hold_exceeded": "The hold has fewer points",
    "holds_open": "The account has open holds",
    "order_differs": "The order is known with another amount or member",
    "order_not_found": "The order is not known",
    "refund_above_order": "The refund is above what is left of the order",
    "no_earn_rate": "The terms have no earn rate",
    "reason_needed": "A reason is needed",
    "move_settled": "The purchase or transfer is settled",
    "account_not_found": "The account does not exist",
    "other_program": "The accounts are of two programs",
    "hook_not_found": "The hook does not exist",
    "hook_exists": "The program has a hook for this source",
    "signature_invalid": "The delivery is not signed with the secret of the hook",
    "invalid_delivery": "The delivery is not what the documentation of hooks describes",
    "secrets_unavailable": "The secrets of this installation cannot be read",
    "invalid_run_id": "The run id is not a UUID",
    "card_not_found": "The program has no card with this number",
    "card_revoked": "The card was revoked; this is final",
    "card_taken": "The card belongs to another account",
    "card_blank": "The card is not assigned to a member",
    "wallet_not_configured": "This server makes no passes for this wallet",
    "extra_missing": "An optional part of the program is not installed",
    "backlog_not_empty": "Some redemptions are not in the ledger yet",
    "invalid_coupon_id": "The coupon id is not a UUID",
    "invalid_hold_id": "The hold id is not a UUID",
    "invalid_reward_id": "The reward id is not a UUID",
    "members_merged": "One of the members was merged, or they are one member",
    "purchase_in_progress": "A purchase of the member is not settled yet",
    "reward_not_found": "The program has no such reward",
    "reward_unavailable": "The reward has not started or has ended",
    "reward_sold_out": "No code of the reward is left",
    "not_found": "The path does not exist",
    "method_not_allowed": "The path does not support this method",
    "request_timeout": "The request did not arrive in time",
    "body_too_large": "The body is too large",
    "head_too_large": "The request head is too large",
    "malformed_request": "The request is not valid HTTP",
    "not_implemented": "The method or transfer coding is not implemented",
    "version_not_supported": "The version of HTTP is not supported",
    "does_not_fit": "The codes do not fit into Redis",
    "postgres_unavailable": "Postgres is unavailable",
    "too_many_connections": "The server, or the address, has too many open connections",
    "report_too_large": "The report has too many rows for this format",
    "report_failed": "The report could not be written",
    "report_timeout": "The report took too long",
    "load_timeout": "Adding the codes took too long",
    "internal_error": "The server failed to handle the request",
    **{answer.code: answer.error.capitalize() for answer in [*COUPON_HTTP.values(), *HTTP.values()]},
    "cross_site": "The form was sent by another site",
    "stale_form": "The form is not valid any more",
    "idempotency_key_in_use": "A request with this Idempotency-Key is in progress",
    "idempotency_key_reused": "The Idempotency-Key was used for another request",
}
"""The title of every `code`, as listed by the docs page and the OpenAPI document."""


class ProblemError(Exception):
    """A problem that answers the request. `error` is sent to the caller and must not contain a secret."""

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
    """Return the body of a problem. Raises KeyError for a code without an entry in TITLES."""
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
    """Return the problem for an outcome in `table`: by default every outcome of redeem but GRANTED and REPLAYED."""
    answer = table[outcome]
    headers = {} if answer.retry_after_s is None else {"Retry-After": str(answer.retry_after_s)}
    return ProblemError(answer.status, answer.error, answer.code, headers=headers)


def not_ready(detail: str | None = None) -> ProblemError:
    """Return the 503 for Redis or Postgres being unavailable."""
    problem = outcome_problem(Outcome.NOT_READY)
    problem.detail = detail
    return problem


def invalid(error: str, code: str = "invalid_request") -> ProblemError:
    """Return a 400 whose `error` names the fault."""
    return ProblemError(400, error, code)


_BY_STATUS: Final = {
    400: ("invalid request", "invalid_request"),
    404: ("not found", "not_found"),
    405: ("method not allowed", "method_not_allowed"),
    413: ("body too large", "body_too_large"),
}


def status_problem(status: int, detail: str | None = None, headers: Mapping[str, str] | None = None) -> ProblemError:
    """Return the problem for an HTTP error of the framework."""
    error, code = _BY_STATUS.get(status, (HTTPStatus(status).phrase.lower(), "invalid_request"))
    if status == 400 and detail:
        error = detail
    return ProblemError(status, error, code, detail=detail, headers=headers)


def forget_raise(error: ProblemError) -> None:
    """Drop the frames of a raise. Some problems are constants: each raise would add its frames, never to be freed."""
    error.__traceback__ = error.__context__ = error.__cause__ = None


def crash_problem(_: Exception) -> ProblemError:
    """Return the 500 for an unexpected exception."""
    return ProblemError(500, "internal error", "internal_error")
