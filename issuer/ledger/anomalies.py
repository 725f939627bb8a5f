"""Anomalies: contradictions between an event and the ledger. Stored for an operator, counted, alarmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import orjson
import structlog

from issuer.contract.events import Redemption
from issuer.storage.postgres import AnyConnection

log = structlog.get_logger()

BIGINT_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One contradiction. `detail` is stored as JSON."""

    kind: str
    pool_id: int | None
    seq: int | None
    detail: dict[str, Any]

    @classmethod
    def of_redemption(cls, kind: str, event: Redemption, stored: dict[str, Any]) -> Anomaly:
        """Return the anomaly of an event that contradicts what is `stored`. Its detail holds both."""
        fields = {
            "code": event.code, "customer_id": event.customer_id, "call_id": event.call_id,
            "redeemed_at_ms": event.redeemed_at_ms, "api_key_id": event.api_key_id, "epoch": event.epoch,
            "serial": event.serial, "key_hash": None if event.key_hash is None else event.key_hash.hex(),
            "terms": event.terms, "order_id": event.order_id,
        }  # fmt: skip
        return cls(kind, bigint_or_none(event.pool_id), bigint_or_none(event.seq), {"event": fields, "stored": stored})


def bigint_or_none(number: int | None) -> int | None:
    """Return a number if Postgres can store it as bigint, else None."""
    return number if number is not None and -BIGINT_MAX <= number <= BIGINT_MAX else None


def _plain(value: Any) -> Any:
    """Convert a value for jsonb, which refuses NUL. Numbers beyond bigint become text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return value.replace("\0", "\\u0000")
    if isinstance(value, int) and not isinstance(value, bool):
        return value if bigint_or_none(value) is not None else str(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return str(value) if isinstance(value, UUID) else value


_INSERT: Final = """
INSERT INTO anomalies (kind, pool_id, seq, detail)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::jsonb[]) AS a(kind, pool_id, seq, detail)
WHERE NOT EXISTS (
  SELECT FROM anomalies b WHERE b.kind = a.kind AND b.pool_id IS NOT DISTINCT FROM a.pool_id
    AND b.seq IS NOT DISTINCT FROM a.seq AND b.detail = a.detail)"""


async def record_anomalies(connection: AnyConnection, anomalies: Sequence[Anomaly]) -> None:
    """Store anomalies in the caller's transaction. One that is stored already (from the same event) adds no row."""
    for anomaly in anomalies[:10]:
        log.error("anomaly", kind=anomaly.kind, pool_id=anomaly.pool_id, seq=anomaly.seq)
    await connection.execute(
        _INSERT,
        [anomaly.kind for anomaly in anomalies],
        [anomaly.pool_id for anomaly in anomalies],
        [anomaly.seq for anomaly in anomalies],
        [orjson.dumps(_plain(anomaly.detail)).decode() for anomaly in anomalies],
    )
