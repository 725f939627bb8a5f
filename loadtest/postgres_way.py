"""The Postgres way, a baseline: each request locks an available row and marks it as issued in one transaction.

It has a partial index of the available rows. It has no API keys, no limits and no idempotency, which makes it faster.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

import orjson

from loadtest.row_lock_server import Asked, PoolConnection, RowLockServer

TABLE: Final = """
CREATE TABLE IF NOT EXISTS row_lock_codes (
    id              bigint GENERATED ALWAYS AS IDENTITY,
    batch_id        uuid NOT NULL,
    client_id       uuid NOT NULL,
    code            text NOT NULL,
    customer_id     uuid,
    redeemed_at     timestamptz,
    PRIMARY KEY (batch_id, code)
);
CREATE INDEX IF NOT EXISTS row_lock_codes_free ON row_lock_codes (batch_id, client_id, id) WHERE redeemed_at IS NULL;
"""
FILL: Final = """
INSERT INTO row_lock_codes (batch_id, client_id, code)
SELECT $1, $2, 'ROWLOCK-' || lpad(to_hex(i), 12, '0') FROM generate_series(1, $3::bigint) AS i
"""

# Only the partial index has this order. With a primary key on the id the planner would choose that, and every request
# would scan all issued rows.
_LOCK: Final = """
SELECT code FROM row_lock_codes WHERE batch_id = $1 AND client_id = $2 AND redeemed_at IS NULL
ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
"""
_MARK: Final = "UPDATE row_lock_codes SET customer_id = $3, redeemed_at = now() WHERE batch_id = $1 AND code = $2"


class PostgresWay(RowLockServer):
    """Redeems one code for each request."""

    async def answer(self, connection: PoolConnection, asked: Asked) -> tuple[int, bytes]:
        fields = orjson.loads(asked.body)
        batch_id, client_id, customer_id = (UUID(fields[name]) for name in ("batchid", "clientid", "customerid"))
        code = await connection.fetchval(_LOCK, batch_id, client_id)
        if code is None:
            return 404, orjson.dumps({"error": "no code found"})
        await connection.execute(_MARK, batch_id, code, customer_id)
        return 200, orjson.dumps({"code": code})


if __name__ == "__main__":
    PostgresWay.main()
