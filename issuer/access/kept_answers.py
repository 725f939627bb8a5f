"""Answers kept for the Idempotency-Keys of administrative requests, for 24 hours.

An answer is stored in the transaction of its act. So a request that is repeated, whatever happened to the process that
served it first, either finds the answer and changes nothing, or finds that nothing was done. Redemptions and
consumptions are not kept here: the script that grants them keeps their answers in Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import orjson

from issuer.storage.postgres import ANSWER_LOCK, AnyConnection, Pool, count_of, lock_of, unavailable_translated

KEPT_FOR: Final = "24 hours"
MAX_BODY_BYTES: Final = 262_144
"""Largest body of a kept answer; the table checks it, too."""
_INSTALLATION: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class AnswerKey:
    """What an answer is kept for. `client_id`: of the API key; None: the key is bound to none, or there is none."""

    client_id: UUID | None
    route: str
    key: str

    @property
    def values(self) -> tuple[UUID, str, str]:
        return self.client_id or _INSTALLATION, self.route, self.key

    @property
    def lock(self) -> tuple[int, int]:
        text = "\0".join(map(str, self.values)).encode()
        return lock_of(ANSWER_LOCK, UUID(bytes=hashlib.sha256(text).digest()[:16]))


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer, with the SHA-256 of the request that it answers."""

    request_sha256: bytes
    status: int
    headers: Mapping[str, str]
    body: bytes


class AnswerTooLargeError(ValueError):
    """The answer has more than MAX_BODY_BYTES bytes."""


_FIND: Final = f"""
SELECT request_sha256, status, headers::text, body FROM kept_answers
WHERE client_id = $1 AND route = $2 AND key = $3 AND kept_at > now() - interval '{KEPT_FOR}'"""

# An expired answer that was not deleted yet is replaced.
_KEEP: Final = """
INSERT INTO kept_answers (client_id, route, key, request_sha256, status, headers, body)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7)
ON CONFLICT (client_id, route, key) DO UPDATE SET request_sha256 = excluded.request_sha256, status = excluded.status,
  headers = excluded.headers, body = excluded.body, kept_at = excluded.kept_at"""

_FORGET: Final = "DELETE FROM kept_answers WHERE client_id = $1 AND route = $2 AND key = $3"

_DELETE_EXPIRED: Final = f"""
DELETE FROM kept_answers WHERE (client_id, route, key) IN (
  SELECT client_id, route, key FROM kept_answers WHERE kept_at <= now() - interval '{KEPT_FOR}'
  ORDER BY kept_at LIMIT $1)"""


async def find_answer(postgres: Pool | AnyConnection, key: AnswerKey) -> KeptAnswer | None:
    """Return the answer that is kept for a key. Raises PostgresUnavailableError."""
    async with unavailable_translated():
        row = await postgres.fetchrow(_FIND, *key.values)
    if row is None:
        return None
    return KeptAnswer(row["request_sha256"], row["status"], orjson.loads(row["headers"]), row["body"])


async def try_lock(connection: AnyConnection, key: AnswerKey) -> bool:
    """Take the lock of a key until the transaction ends; False: another transaction has it."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1, $2)", *key.lock))


async def keep_answer(postgres: Pool | AnyConnection, key: AnswerKey, answer: KeptAnswer) -> None:
    """Keep an answer, in the place of an earlier one. Raises AnswerTooLargeError."""
    if len(answer.body) > MAX_BODY_BYTES:
        raise AnswerTooLargeError
    headers = orjson.dumps(dict(answer.headers)).decode()
    await postgres.execute(_KEEP, *key.values, answer.request_sha256, answer.status, headers, answer.body)


async def forget_answer(postgres: Pool | AnyConnection, key: AnswerKey) -> None:
    """Delete the answer of an act that failed after its transaction: the next request with the key is a new one."""
    await postgres.execute(_FORGET, *key.values)


async def delete_expired_answers(postgres: Pool, limit: int) -> int:
    """Delete the oldest answers that are kept no longer, at most `limit`; return how many.

    Raises PostgresUnavailableError.
    """
    async with unavailable_translated():
        return count_of(await postgres.execute(_DELETE_EXPIRED, limit))
