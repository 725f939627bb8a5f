"""Hooks with what the document does not contain. Schemathesis loads them in its own process, not pytest."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st

from issuer.campaigns.campaign import MAX_CODES_OF_CAMPAIGN
from issuer.ids import InvalidIdError, id_text, parse_uuid
from issuer.names import name_problem

FEW_CODES = 20
# A batch with codes: without real ids every redemption would be answered with "no batch found".
BATCH, NAME, CLIENT = (os.environ.get(f"KNOWN_{what}", "") for what in ("BATCH", "NAME", "CLIENT"))
PROGRAM, MEMBER = (os.environ.get(f"KNOWN_{what}", "") for what in ("PROGRAM", "MEMBER"))
FINAL = ("changeProgram", "eraseMember")
"""Operations that could end the known program or erase the known member: these name others."""
REDEEMING = ("/api/v1/code/redeem", "/api/v1/redemptions")


def _instant(moment: datetime, offset: str) -> str:
    return moment.isoformat(timespec="milliseconds") + offset


schemathesis.openapi.format(
    "date-time",
    st.builds(
        _instant,
        st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9000, 1, 1)),  # noqa: DTZ001
        st.sampled_from(("Z", "+02:00", "-11:30")),
    ),
)


def _known(field: str, value: str) -> str:
    """Return what names the known batch or its client in this field. A value that cannot be in it stays."""
    if field in ("batchid", "batch_id"):
        return value if parse_uuid(value) is None else BATCH
    if field == "batch":
        return value if name_problem(value) else NAME
    if field in ("clientid", "client", "client_id"):
        try:
            id_text(value)
        except InvalidIdError:
            return value
        return CLIENT
    return value


@schemathesis.hook  # type: ignore[untyped-decorator]
def map_body(context: Any, body: Any) -> Any:
    """Replace the batch and the client of a redemption by the known ones."""
    if not BATCH or context.operation.path not in REDEEMING or not isinstance(body, dict):
        return body
    return {field: _known(field, value) if isinstance(value, str) else value for field, value in body.items()}


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Reduce the size of large campaigns, whose creation would exceed the time-out. Invalid sizes stay."""
    total = case.body.get("total") if isinstance(case.body, dict) else None
    if isinstance(total, int | float) and FEW_CODES < total <= MAX_CODES_OF_CAMPAIGN:
        case.body["total"] = int(total) % FEW_CODES + 1


@schemathesis.hook  # type: ignore[untyped-decorator]
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Replace most names of programs and members by the known ones, so that requests reach accounts of points."""
    if not PROGRAM or not path_parameters or context.operation.definition.raw.get("operationId") in FINAL:
        return path_parameters
    known = {"program": PROGRAM, "member": MEMBER}
    return {
        name: known[name] if name in known and len(str(value)) % 4 else value for name, value in path_parameters.items()
    }
