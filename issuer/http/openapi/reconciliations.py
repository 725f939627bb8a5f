"""Runs of the reconciliation in the OpenAPI document: their operations and schemas."""

from __future__ import annotations

from typing import Final

from issuer.http.openapi.parts import OPERATOR, PAGED, ok, operation, path_parameter
from issuer.http.openapi.shapes import INSTANT, Schema, count, described, nullable, page, ref, shape
from issuer.reconciliation.runs import MAX_KEPT, RunState
from issuer.reconciliation.whole import MAX_SHOWN

_TAG: Final = "operating"
_NUMBER: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}
_LIST: Final[Schema] = {"type": "array", "items": {"type": "object"}}
_RUN: Final[dict[str, Schema]] = {
    "id": count("Its id"),
    "state": {
        "enum": [*RunState],
        "description": "`waiting`, `running`: the worker makes it; `failed`: it could not, and tries again; `holds`: "
        "everything balances; `wrong`: it does not",
    },
    "actor": {"type": "string", "description": "Who asked for it"},
    "requested_at": described(INSTANT, "When it was asked for"),
    "started_at": described(nullable(INSTANT), "When the worker began; null: it has not"),
    "finished_at": described(nullable(INSTANT), "When it was finished; null: it is not"),
    "error": described(nullable({"type": "string"}), "Why the worker could not make it"),
}
_RESULT: Final = shape(
    {
        "holds": {"type": "boolean", "description": "Whether everything balances"},
        "pools": count("Pools that were checked"),
        "wrong_pools": count("Pools that do not balance"),
        "sums": described(
            shape(
                {
                    name: count(f"Of all pools: {what}")
                    for name, what in (
                        ("issued", "what was issued"), ("ledger", "recorded"), ("backlog", "not recorded yet"),
                        ("quarantined", "quarantined"), ("dead_letters", "dead letters"), ("void", "void"),
                    )
                }
            ),
            "The sums over all pools",
        ),
        "wrong": described(_LIST, f"The equations of the first {MAX_SHOWN} pools that do not balance"),
        "partitions": described(_LIST, "The equations of the partitions"),
        "repeated": described(_LIST, "Codes that a client has more than once"),
        "unreadable": count("Events that cannot be read"),
        "points": {"type": "object", "description": "The accounts of points, and those that do not balance"},
        "moves": described(_LIST, "Points moves that do not hold"),
    }
)  # fmt: skip

RECONCILIATIONS: Final[dict[str, Schema]] = {
    "ReconciliationRun": shape(_RUN),
    "ReconciliationRunPage": page("ReconciliationRun"),
    "ReconciliationRunDetail": shape(
        {**_RUN, "result": described(nullable(_RESULT), "What was found; null: it is not finished")}
    ),
}


def reconciliation_paths() -> dict[str, Schema]:
    """Return the paths of the runs."""
    return {
        "/api/v1/reconciliations": {
            "get": operation(
                _TAG, "List reconciliations", {200: ok("A page, newest first", ref("ReconciliationRunPage"))},
                operationId="listReconciliations", parameters=PAGED,
                description=f"The {MAX_KEPT} newest runs are kept. " + OPERATOR,
            ),
            "post": operation(
                _TAG, "Ask for a reconciliation", {202: ok("The run", ref("ReconciliationRun"))},
                operationId="reconcile",
                description="The worker checks that every issued code is in exactly one place, and every account of "
                "points is what its entries add up to. While a run is open, the answer is that one. " + OPERATOR,
            ),
        },
        "/api/v1/reconciliations/{run_id}": {
            "parameters": [path_parameter("run_id", _NUMBER)],
            "get": operation(
                _TAG, "Show a reconciliation", {200: ok("The run", ref("ReconciliationRunDetail"))}, 404,
                operationId="showReconciliation", description=OPERATOR,
            ),
        },
    }  # fmt: skip
