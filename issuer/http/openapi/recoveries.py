"""Recoveries, quarantine and dead letters in the OpenAPI document: their operations and schemas."""

from __future__ import annotations

from typing import Final

from issuer.http.openapi.parts import OPERATOR, PAGED, body, ok, operation, path_parameter
from issuer.http.openapi.shapes import (
    BATCH,
    CLIENT,
    CLIENT_NAME,
    CODE,
    INSTANT,
    UUID,
    Schema,
    count,
    described,
    nullable,
    page,
    ref,
    shape,
)
from issuer.recovery.history import MAX_POOLS
from issuer.recovery.inspection import Verdict

_TAG: Final = "operating"
_TEXT: Final[Schema] = {"type": "string"}
_FLAG: Final[Schema] = {"type": "boolean"}
_NUMBER: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_EPOCH: Final = count("The epoch that it began")
_HELD: Final = count("Codes that are still quarantined")
_RELEASED: Final = count("Codes that are in stock again")
_RECOVERY: Final[dict[str, Schema]] = {
    "epoch": _EPOCH,
    "verdict": {
        "enum": [str(verdict) for verdict in Verdict],
        "description": "`first`: nothing was ever issued. `restart`: the same data. `exact`: data were lost, and "
        "everything that was answered is known. `bounded`: something may be missing, and is quarantined",
    },
    "at": described(INSTANT, "When the server was blessed"),
    "reasons": described(_TEXTS, "Why it was no restart, for people"),
    "drained": count("Events that it read from the streams"),
    "missing": described(_TEXTS, "The processes whose answers were not known then, for people"),
    "held": _HELD,
    "released": _RELEASED,
    "accepted_at": described(nullable(INSTANT), "When it was accepted that the held codes stay out of stock"),
    "accepted_by": described(nullable(_TEXT), "By whom"),
}
_RANGE: Final[dict[str, Schema]] = {
    "batch_id": UUID,
    "batch_name": _TEXT,
    "client_id": UUID,
    "client_name": CLIENT_NAME,
    "first_seq": count("The lowest quarantined number in the pool"),
    "last_seq": count("The highest one"),
    "held": _HELD,
    "released": _RELEASED,
}

RECOVERIES: Final[dict[str, Schema]] = {
    "Recovery": shape(_RECOVERY),
    "RecoveryPage": page("Recovery"),
    "AcceptedRecovery": shape({"epoch": _EPOCH}),
    "OpenRegistration": shape(
        {
            "epoch": count("The epoch in which the process issued codes"),
            "process": described(_TEXT, "The process"),
            "host": described(_TEXT, "The host on which it ran: start the API there, or replay its journals"),
            "has_journal": described(_FLAG, "Whether it wrote a receipt journal"),
            "is_alive": described(_FLAG, "Whether it still runs"),
        }
    ),
    "QuarantinedPool": shape(_RANGE),
    "QuarantinedCode": shape(
        {
            "batch_id": UUID,
            "batch_name": _TEXT,
            "client_id": UUID,
            "seq": count("Its number in the pool when it was quarantined"),
            "code": described(nullable(CODE), "The code; of a coupon its own. Null: not known"),
            "released": described(_FLAG, "Whether it is in stock again"),
        }
    ),
    "QuarantinedCodePage": page("QuarantinedCode"),
    "RecoveryDetail": shape(
        {
            **_RECOVERY,
            "waits_for": {
                "type": "array",
                "items": ref("OpenRegistration"),
                "description": "The processes whose answers are not known yet: the quarantine ends when there are none",
            },
            "pools": {
                "type": "array",
                "items": ref("QuarantinedPool"),
                "description": f"What was quarantined, by pool; at most {MAX_POOLS}, those with most first",
            },
        }
    ),
    "QuarantinedRange": shape(
        {**_RANGE, "epoch": _EPOCH, "quarantined_at": described(INSTANT, "When the recovery was made")}
    ),
    "QuarantinedRangePage": page("QuarantinedRange"),
    "Release": shape(
        {
            "batch": described(nullable(BATCH), "Name or id of the batch"),
            "batch_id": described(nullable(UUID), "Id of the batch"),
            "client": described(nullable(CLIENT), "Only codes of this client"),
            "client_id": described(nullable(CLIENT), "The same, by its id"),
            "epoch": described(nullable(_NUMBER), "Only what the recovery with this epoch quarantined"),
            "journals_replayed": {
                "const": True,
                "description": "All journals were replayed, and no old primary with these codes runs: a code that a "
                "customer has is issued a second time otherwise",
            },
        },
        optional=("batch", "batch_id", "client", "client_id", "epoch"),
    ),
    "Released": shape({"released": count("Codes that are in stock again")}),
    "DeadLetter": shape(
        {
            "id": count("Its id, for a retry"),
            "partition": count("The partition whose stream had the event"),
            "epoch": count("The epoch of the event"),
            "pool": described(nullable(_NUMBER), "The pool that it is about; null: the event cannot be read"),
            "seq": described(nullable(_NUMBER), "The number of the code in the pool; null: not known"),
            "reason": described(_TEXT, "Why it could not be recorded"),
            "created_at": INSTANT,
            "resolved_at": described(nullable(INSTANT), "When it was recorded after all"),
        }
    ),
    "DeadLetterPage": page("DeadLetter"),
    "Retry": shape({"id": described(nullable(_NUMBER), "Only this dead letter")}, optional=("id",)),
    "Retried": shape(
        {
            "resolved": count("Dead letters that are recorded now"),
            "not_resolved": {
                "type": "array",
                "items": shape({"id": count("Its id"), "reason": described(_TEXT, "Why it could not be recorded")}),
                "description": "The others",
            },
        }
    ),
}


def recovery_paths() -> dict[str, Schema]:
    """Return the paths of recoveries, the quarantine and dead letters."""
    resolved = {
        "name": "resolved", "in": "query", "description": "Also those that are resolved",
        "schema": {"enum": ["true", "false"], "default": "false"},
    }  # fmt: skip
    of_batch = [
        {"name": "batch", "in": "query", "description": "Only of this batch, by name or id", "schema": BATCH},
        {"name": "batch_id", "in": "query", "description": "Only of this batch", "schema": UUID},
    ]
    return {
        "/api/v1/recoveries": {
            "get": operation(
                _TAG, "List recoveries", {200: ok("A page, newest first", ref("RecoveryPage"))},
                operationId="listRecoveries", parameters=PAGED,
                description="Every Redis server that was blessed, and what was lost before. " + OPERATOR,
            )
        },
        "/api/v1/recoveries/{epoch}": {
            "parameters": [path_parameter("epoch", _NUMBER)],
            "get": operation(
                _TAG, "Show a recovery", {200: ok("The recovery", ref("RecoveryDetail"))}, 404,
                operationId="showRecovery", description="What it quarantined, and what that waits for. " + OPERATOR,
            ),
        },
        "/api/v1/recoveries/{epoch}/accept": {
            "parameters": [path_parameter("epoch", _NUMBER)],
            "post": operation(
                _TAG, "Accept what a recovery quarantined", {200: ok("It is accepted", ref("AcceptedRecovery"))}, 404,
                operationId="acceptRecovery",
                description="The codes stay out of stock, and there is nothing to decide about them; they can still "
                "be released. " + OPERATOR,
            ),
        },
        "/api/v1/recoveries/{epoch}/codes": {
            "parameters": [path_parameter("epoch", _NUMBER)],
            "get": operation(
                _TAG, "Name the codes that a recovery quarantined",
                {200: ok("A page, pool by pool", ref("QuarantinedCodePage"))}, 404,
                operationId="nameQuarantined", parameters=PAGED,
                description="Which customers may have them is not known. The audit log keeps who saw them. "
                + OPERATOR,
            ),
        },
        "/api/v1/quarantine": {
            "get": operation(
                _TAG, "List quarantined codes",
                {200: ok("All, by recovery and pool", ref("QuarantinedRangePage"))}, 404, 409,
                operationId="listQuarantined", parameters=of_batch,
                description="Codes that a lost Redis may have issued. It is one page. " + OPERATOR,
            )
        },
        "/api/v1/quarantine/release": {
            "post": operation(
                _TAG, "Release the quarantined codes of a batch", {200: ok("How many", ref("Released"))}, 404, 409,
                operationId="releaseQuarantined", requestBody=body("Release"),
                description="Puts them at the end of the stock. Without `journals_replayed` it is a 400 "
                "`not_confirmed`. " + OPERATOR,
            )
        },
        "/api/v1/dead-letters": {
            "get": operation(
                _TAG, "List dead letters", {200: ok("A page, oldest first", ref("DeadLetterPage"))},
                operationId="listDeadLetters", parameters=[resolved, *PAGED],
                description="Events that could not be recorded in the ledger. " + OPERATOR,
            )
        },
        "/api/v1/dead-letters/retry": {
            "post": operation(
                _TAG, "Try again to record dead letters", {200: ok("What became of them", ref("Retried"))},
                operationId="retryDeadLetters", requestBody=body("Retry"), description=OPERATOR,
            )
        },
    }  # fmt: skip
