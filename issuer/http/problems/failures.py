"""The table exception → problem. Redemptions are not in it: their outcomes are values, not exceptions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from starlette.requests import ClientDisconnect

from issuer.access.api_keys import ApiKeyNotFoundError, InvalidApiKeyError
from issuer.access.secrets import SecretKeyError
from issuer.batches.named import AmbiguousNameError
from issuer.batches.rules import RulesError
from issuer.batches.store import (
    BatchEndedError,
    BatchIdTakenError,
    BatchNotFoundError,
    BatchSharedError,
    InvalidBatchError,
)
from issuer.campaigns.campaign import CampaignNotFoundError, InvalidCampaignError
from issuer.clients.quotas import QuotaExceededError
from issuer.clients.registry import ClientExistsError, ClientNotFoundError, InvalidClientError
from issuer.contract.outcomes import COUPON_HTTP, Outcome
from issuer.coupons.coupon import (
    CouponDeletedError,
    CouponExistsError,
    CouponNotFoundError,
    ManyClientsError,
)
from issuer.coupons.fields import InvalidCouponError
from issuer.coupons.reversal import AlreadyReversedError, ConsumptionNotFoundError
from issuer.finding.find import InvalidSearchError
from issuer.finding.reveal import CodeNotFoundError
from issuer.generating.code_format import CodeFormatError, CodeSpaceError
from issuer.generating.code_source import FewCodesError
from issuer.generating.jobs import JobIdReusedError, JobNotFoundError, TooManyJobsError
from issuer.http.problems.problem import ProblemError, invalid, not_ready, outcome_problem
from issuer.http.strict_json import InvalidJsonError
from issuer.ids import InvalidIdError
from issuer.ledger.erasure import BacklogNotEmptyError
from issuer.loading.errors import HeaderRowError, PreloadError
from issuer.loading.file_kind import FileKindError
from issuer.loading.report import NothingLoadedError
from issuer.loyalty.amounts import InvalidAmountError, OtherCurrencyError
from issuer.loyalty.card_printing import CardPrintingError, ExtraMissingError
from issuer.loyalty.cards import CardBlankError, CardNotFoundError, CardRevokedError, CardTakenError
from issuer.loyalty.hooks.endpoint import HookExistsError, HookNotFoundError, InvalidHookError
from issuer.loyalty.member import InvalidMemberError, MemberExistsError, MemberNotFoundError
from issuer.loyalty.merging import MembersMergedError, PurchaseInProgressError
from issuer.loyalty.named_programs import AmbiguousProgramError
from issuer.loyalty.orders import OrderNotFoundError
from issuer.loyalty.pass_card import WalletError
from issuer.loyalty.program import (
    InvalidProgramError,
    ProgramEndedError,
    ProgramExistsError,
    ProgramNotFoundError,
    ProgramPausedError,
)
from issuer.loyalty.purchases import RequestKeyReusedError
from issuer.loyalty.reward import InvalidRewardError, RewardNotFoundError, RewardUnavailableError
from issuer.loyalty.terms import TermsError
from issuer.loyalty.waiting import PointsBusyError
from issuer.operators.operator import InvalidOperatorError, OperatorExistsError, OperatorNotFoundError
from issuer.operators.passwords import PasswordsBusyError
from issuer.paging import InvalidCursorError
from issuer.pools.memory import RedisMemoryError
from issuer.pools.pool import PoolError
from issuer.reconciliation.runs import RunNotFoundError
from issuer.recovery.history import RecoveryNotFoundError
from issuer.reports.spool import ReportTooLargeError, WorkbookError
from issuer.storage.incarnation import UnknownInstallationError
from issuer.storage.look_ups import LookUpsBusyError
from issuer.storage.postgres import PostgresUnavailableError
from issuer.storage.redis_link import RedisUnavailableError

SHOWN_ROWS: Final = 100
"""Rows of a file that an answer shows one by one."""

_Make = Callable[[Any], ProblemError]


def _redis_unavailable(_: Exception) -> ProblemError:
    return not_ready("Redis is unavailable; a change is stored and takes effect as soon as Redis is available again")


def postgres_unavailable() -> ProblemError:
    """Return the 503 of an operation that needs Postgres."""
    return ProblemError(503, "postgres unavailable", "postgres_unavailable", headers={"Retry-After": "1"})


def _nothing_loaded(error: NothingLoadedError) -> ProblemError:
    report = error.report
    rows = [{"line": row.line, "reason": row.reason} for row in report.rejections[:SHOWN_ROWS]]
    members = {"rows": report.rows, "rejected": report.rejected, "rejections": rows}
    return ProblemError(400, str(error), "no_valid_rows", members=members)


def _member_exists(error: MemberExistsError) -> ProblemError:
    members = {} if error.member_id is None else {"member_id": str(error.member_id)}
    return ProblemError(409, str(error), "member_exists", members=members)


UNPARSABLE: Final = invalid("cannot parse json", "unparsable_json")

FAILURES: Final[dict[type[Exception], _Make]] = {
    BatchNotFoundError: lambda _: outcome_problem(Outcome.UNKNOWN_BATCH),
    BatchEndedError: lambda error: ProblemError(409, str(error), "batch_ended"),
    BatchIdTakenError: lambda error: ProblemError(409, str(error), "id_taken"),
    AmbiguousNameError: lambda error: ProblemError(
        409, str(error), "ambiguous_name", detail="give batch_id", members={"batch_ids": error.ids}
    ),
    BatchSharedError: lambda error: ProblemError(403, str(error), "batch_shared"),
    InvalidBatchError: lambda error: invalid(str(error)),
    ClientNotFoundError: lambda error: ProblemError(404, str(error), "client_not_found"),
    QuotaExceededError: lambda error: ProblemError(
        403, str(error), "quota_exceeded", members={"quota": error.quota, "limit": error.limit, "used": error.used}
    ),
    ClientExistsError: lambda error: ProblemError(409, str(error), "id_taken"),
    InvalidClientError: lambda error: invalid(str(error)),
    InvalidIdError: lambda error: invalid(str(error), "invalid_id"),
    ApiKeyNotFoundError: lambda _: ProblemError(404, "no key found", "key_not_found"),
    InvalidApiKeyError: lambda error: invalid(str(error), "invalid_key"),
    InvalidOperatorError: lambda error: invalid(str(error), "invalid_operator"),
    OperatorExistsError: lambda error: ProblemError(409, str(error), "operator_exists"),
    OperatorNotFoundError: lambda error: ProblemError(404, str(error), "operator_not_found"),
    PasswordsBusyError: lambda _: not_ready("too many passwords wait to be checked"),
    RecoveryNotFoundError: lambda _: ProblemError(404, "no recovery found", "recovery_not_found"),
    RunNotFoundError: lambda _: ProblemError(404, "no run found", "run_not_found"),
    CodeNotFoundError: lambda _: ProblemError(404, "no code found", "code_not_found"),
    InvalidSearchError: lambda error: invalid(str(error)),
    CouponNotFoundError: lambda _: outcome_problem(Outcome.UNKNOWN_BATCH, COUPON_HTTP),
    CouponExistsError: lambda error: ProblemError(409, str(error), "coupon_exists"),
    CouponDeletedError: lambda error: ProblemError(409, str(error), "coupon_deleted"),
    InvalidCouponError: lambda error: invalid(str(error)),
    RulesError: lambda error: invalid(str(error), "invalid_rules"),
    ManyClientsError: lambda error: ProblemError(409, str(error), "client_id_needed"),
    ConsumptionNotFoundError: lambda error: ProblemError(404, str(error), "consumption_not_found"),
    AlreadyReversedError: lambda error: ProblemError(409, str(error), "already_reversed"),
    CampaignNotFoundError: lambda error: ProblemError(404, str(error), "campaign_not_found"),
    ProgramNotFoundError: lambda error: ProblemError(404, str(error), "program_not_found"),
    ProgramExistsError: lambda error: ProblemError(409, str(error), "program_exists"),
    ProgramPausedError: lambda error: ProblemError(409, str(error), "program_paused"),
    ProgramEndedError: lambda error: ProblemError(409, str(error), "program_ended"),
    AmbiguousProgramError: lambda error: ProblemError(
        409, str(error), "ambiguous_name", detail="give its id", members={"program_ids": error.ids}
    ),
    InvalidProgramError: lambda error: invalid(str(error), "invalid_program"),
    TermsError: lambda error: invalid(str(error), "invalid_terms"),
    InvalidAmountError: lambda error: invalid(str(error), "invalid_amount"),
    OtherCurrencyError: lambda error: invalid(str(error), "other_currency"),
    MemberNotFoundError: lambda error: ProblemError(404, str(error), "member_not_found"),
    MemberExistsError: _member_exists,
    OrderNotFoundError: lambda error: ProblemError(404, str(error), "order_not_found"),
    InvalidMemberError: lambda error: invalid(str(error), "invalid_member"),
    CardNotFoundError: lambda error: ProblemError(404, str(error), "card_not_found"),
    CardRevokedError: lambda error: ProblemError(410, str(error), "card_revoked"),
    CardTakenError: lambda error: ProblemError(409, str(error), "card_taken"),
    CardBlankError: lambda error: ProblemError(409, str(error), "card_blank"),
    WalletError: lambda error: ProblemError(404, "no pass found", "wallet_not_configured", detail=str(error)),
    ExtraMissingError: lambda error: ProblemError(501, str(error), "extra_missing"),
    CardPrintingError: lambda error: ProblemError(
        503, "the cards could not be printed", "report_failed", detail=str(error), headers={"Retry-After": "60"}
    ),
    PointsBusyError: lambda _: outcome_problem(Outcome.OVERLOADED),
    InvalidRewardError: lambda error: invalid(str(error)),
    RewardNotFoundError: lambda error: ProblemError(404, str(error), "reward_not_found"),
    RewardUnavailableError: lambda error: ProblemError(409, str(error), "reward_unavailable"),
    RequestKeyReusedError: lambda error: ProblemError(422, str(error), "idempotency_key_reused"),
    MembersMergedError: lambda error: ProblemError(409, str(error), "members_merged"),
    PurchaseInProgressError: lambda error: ProblemError(
        409, str(error), "purchase_in_progress", headers={"Retry-After": "5"}
    ),
    LookUpsBusyError: lambda _: outcome_problem(Outcome.OVERLOADED),
    InvalidCampaignError: lambda error: invalid(str(error), "invalid_campaign"),
    InvalidJsonError: lambda _: UNPARSABLE,
    InvalidCursorError: lambda _: invalid("invalid cursor", "invalid_cursor"),
    RedisMemoryError: lambda error: ProblemError(507, str(error), "does_not_fit"),
    PreloadError: lambda error: ProblemError(400, str(error), "load_refused"),
    HeaderRowError: lambda error: ProblemError(
        400, "CSV must contain 'code' and 'client_id' columns", "missing_csv_columns", detail=str(error)
    ),
    FileKindError: lambda error: ProblemError(400, "File must be a CSV", "not_a_csv_file", detail=str(error)),
    NothingLoadedError: _nothing_loaded,
    CodeFormatError: lambda error: invalid(str(error)),
    CodeSpaceError: lambda error: ProblemError(
        400, str(error), "code_space_too_small", members={"length_needed": error.length}
    ),
    FewCodesError: lambda error: ProblemError(400, str(error), "code_space_too_small"),
    JobNotFoundError: lambda _: ProblemError(404, "no job found", "job_not_found"),
    JobIdReusedError: lambda error: ProblemError(409, str(error), "job_id_reused"),
    TooManyJobsError: lambda error: ProblemError(429, str(error), "too_many_jobs", headers={"Retry-After": "10"}),
    BacklogNotEmptyError: lambda error: ProblemError(
        503, str(error), "backlog_not_empty", headers={"Retry-After": "5"}
    ),
    ReportTooLargeError: lambda error: ProblemError(400, str(error), "report_too_large"),
    WorkbookError: lambda error: ProblemError(
        503, "the workbook could not be written", "report_failed", detail=str(error), headers={"Retry-After": "60"}
    ),
    HookNotFoundError: lambda error: ProblemError(404, str(error), "hook_not_found"),
    HookExistsError: lambda error: ProblemError(409, str(error), "hook_exists"),
    InvalidHookError: lambda error: invalid(str(error)),
    SecretKeyError: lambda error: ProblemError(503, str(error), "secrets_unavailable", headers={"Retry-After": "60"}),
    PoolError: lambda error: not_ready(str(error)),
    RedisUnavailableError: _redis_unavailable,
    UnknownInstallationError: lambda _: not_ready("Postgres has not been reached yet"),
    PostgresUnavailableError: lambda _: postgres_unavailable(),
    ClientDisconnect: lambda _: ProblemError(400, "the client went away", "malformed_request"),
}
"""Looked up by the class of the exception, then by its bases, the nearest first."""


def problem_of(error: Exception) -> ProblemError | None:
    """Return the problem for an exception, or None for an unexpected one."""
    if isinstance(error, ProblemError):
        return error
    for kind in type(error).__mro__:
        if kind in FAILURES:
            return FAILURES[kind](error)
    return None
