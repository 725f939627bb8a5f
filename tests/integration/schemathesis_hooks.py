"""What schemathesis cannot know from the document. Loaded by it, in its own process, not by pytest."""

from __future__ import annotations

import os
import re
from datetime import datetime
from typing import Any

import schemathesis
from hypothesis import strategies as st

from issuer.campaigns.campaign import MAX_CODES_OF_CAMPAIGN

FEW_CODES = 20
# Lives in a batch with codes: without real ids no redemption would ever get past "no batch found".
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
    """Puts the known ids where a redemption has others. What is no id stays as it is."""
    if BATCH and context.operation.path == "/api/v1/code/redeem" and isinstance(body, dict):
        for field, known in (("batchid", BATCH), ("clientid", CLIENT)):
            value = body.get(field)
            if isinstance(value, str) and _UUID.fullmatch(value):
                body[field] = known
    return body


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Makes large campaigns small: millions of codes take longer than the answer may. What cannot be made stays."""
    total = case.body.get("total") if isinstance(case.body, dict) else None
    if isinstance(total, int | float) and FEW_CODES < total <= MAX_CODES_OF_CAMPAIGN:
        case.body["total"] = int(total) % FEW_CODES + 1
