"""Hooks with what the document does not contain. Schemathesis loads them in its own process, not pytest."""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st

from issuer.campaigns.campaign import MAX_CODES_OF_CAMPAIGN

FEW_CODES = 20
# A batch with codes: without real ids every redemption would be answered with "no batch found".
BATCH, CLIENT = os.environ.get("KNOWN_BATCH", ""), os.environ.get("KNOWN_CLIENT", "")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


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


@schemathesis.hook  # type: ignore[untyped-decorator]
def map_body(context: Any, body: Any) -> Any:
    """Replace the ids of a redemption by those of the known batch. Values that are no ids stay."""
    if BATCH and context.operation.path == "/api/v1/code/redeem" and isinstance(body, dict):
        for field, known in (("batchid", BATCH), ("clientid", CLIENT)):
            value = body.get(field)
            if isinstance(value, str) and _UUID.fullmatch(value):
                body[field] = known
    return body


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Reduce the size of large campaigns, whose creation would exceed the time-out. Invalid sizes stay."""
    total = case.body.get("total") if isinstance(case.body, dict) else None
    if isinstance(total, int | float) and FEW_CODES < total <= MAX_CODES_OF_CAMPAIGN:
        case.body["total"] = int(total) % FEW_CODES + 1
