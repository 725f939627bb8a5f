"""The Postgres way of points, a baseline: each request locks the row of an account and writes its entry.

It promises what the API does: an answer is durable, each change has an entry, no balance is negative, and a request
with an Idempotency-Key is carried out once, however often it is sent. It has no API keys and rate limits, no programs
with terms, no members (a path has the number of the account), no expiry and no limits of a day, which makes it faster.
"""

from __future__ import annotations

import hashlib
from typing import Final
from uuid import UUID

import orjson

from loadtest.row_lock_server import Asked, PoolConnection, RowLockServer

TABLE: Final = """
CREATE TABLE row_lock_accounts (id bigint PRIMARY KEY, seq bigint NOT NULL, available bigint NOT NULL)
  WITH (fillfactor = 80);
CREATE TABLE row_lock_entries (
    account_id      bigint NOT NULL,
    seq             bigint NOT NULL,
    op              text NOT NULL,
    points          bigint NOT NULL,
    available       bigint NOT NULL,
    occurred_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, seq)
);
CREATE TABLE row_lock_answers (
    key             text PRIMARY KEY,
    request_sha256  bytea NOT NULL,
    answer          bytea NOT NULL,
    kept_at         timestamptz NOT NULL DEFAULT now()
);
"""
FILL: Final = "INSERT INTO row_lock_accounts SELECT i, 0, 1000000000 FROM generate_series(1, $1::bigint) AS i"

_LOCK: Final = "SELECT seq, available FROM row_lock_accounts WHERE id = $1 FOR UPDATE"
_CHANGE: Final = "UPDATE row_lock_accounts SET seq = seq + 1, available = $2 WHERE id = $1"
_ENTRY: Final = "INSERT INTO row_lock_entries (account_id, seq, op, points, available) VALUES ($1, $2, $3, $4, $5)"
_FIND: Final = "SELECT request_sha256, answer FROM row_lock_answers WHERE key = $1"
_KEEP: Final = "INSERT INTO row_lock_answers (key, request_sha256, answer) VALUES ($1, $2, $3)"


class PointsWay(RowLockServer):
    """Serves POST /{account}/earn and /{account}/spend, with the account's number as a UUID."""

    async def answer(self, connection: PoolConnection, asked: Asked) -> tuple[int, bytes]:
        _, account, op = asked.path.split("/")
        account_id, points = UUID(account).int, orjson.loads(asked.body)["points"]
        row = await connection.fetchrow(_LOCK, account_id)
        digest = hashlib.sha256(asked.path.encode() + asked.body).digest()
        # Behind the lock, so that a repeat finds what the first request has kept.
        kept = None if asked.key is None else await connection.fetchrow(_FIND, asked.key)
        if kept is not None:
            return (201, kept["answer"]) if kept["request_sha256"] == digest else (422, b"{}")
        change = points if op == "earn" else -points
        if row is None or row["available"] + change < 0:
            return 403, b"{}"
        seq, available = row["seq"] + 1, row["available"] + change
        await connection.execute(_ENTRY, account_id, seq, op, points, available)
        await connection.execute(_CHANGE, account_id, available)
        body = orjson.dumps({"seq": seq, "available": available})
        if asked.key is not None:
            await connection.execute(_KEEP, asked.key, digest, body)
        return 201, body


if __name__ == "__main__":
    PointsWay.main()
