"""Answers kept for the Idempotency-Keys of administrative requests, for 24 hours.

An answer is stored in the transaction of its act. So a request that is repeated, whatever happened to the process that
served it first, either finds the answer and changes nothing, or finds that nothing was done. Redemptions and
consumptions are not kept here: the script that grants them keeps their answers in Redis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

import orjson

from issuer.storage.acts import Act
from issuer.storage.postgres import ANSWER_LOCK, AnyConnection, Pool, count_of, lock_of, unavailable_translated

KEPT_FOR: Final = "24 hours"
MAX_BODY_BYTES: Final = 262_144
"""Largest body of a kept answer; the table checks it, too."""
_INSTALLATION: Final = UUID(int=0)
Result = TypeVar("Result")


class AnswerKey(NamedTuple):
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

    def check_size(self) -> None:
        """Raise AnswerTooLargeError for an answer that cannot be kept."""
        if len(self.body) > MAX_BODY_BYTES:
            raise AnswerTooLargeError


class KeptAct(Act[Result]):
    """An act that may share its transaction with others: their answers are looked for and kept all at once."""

    @property
    def answer_key(self) -> AnswerKey | None:
        """What the answer is kept for; None: the request has no key, and no answer is kept."""
        raise NotImplementedError

    def compare(self, answer: KeptAnswer) -> None:
        """Raise, because the answer that was found is that of this act or of another one with its key."""
        raise NotImplementedError

    async def render(self, result: Result) -> KeptAnswer:
        """Return the answer to the act. Raises if it cannot be kept: nothing is changed then."""
        raise NotImplementedError


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

_FIND_ALL: Final = f"""
SELECT k.* , k.headers::text AS header_text
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS named (client_id, route, key) JOIN kept_answers k
  ON (k.client_id, k.route, k.key) = (named.client_id, named.route, named.key)
WHERE k.kept_at > now() - interval '{KEPT_FOR}'"""

_KEEP_ALL: Final = f"""
INSERT INTO kept_answers AS k (client_id, route, key, request_sha256, status, headers, body)
SELECT client_id, route, key, sha256, status, headers::jsonb, body
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::integer[], $6::text[], $7::bytea[])
  AS given (client_id, route, key, sha256, status, headers, body)
ON CONFLICT (client_id, route, key) DO UPDATE SET request_sha256 = excluded.request_sha256, status = excluded.status,
  headers = excluded.headers, body = excluded.body, kept_at = excluded.kept_at
WHERE k.kept_at <= now() - interval '{KEPT_FOR}'"""

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


async def find_answers(connection: AnyConnection, keys: Collection[AnswerKey]) -> dict[AnswerKey, KeptAnswer]:
    """Return the answers that are kept for some of the keys."""
    by_values = {key.values: key for key in keys}
    rows = await connection.fetch(_FIND_ALL, *zip(*by_values, strict=True))
    return {
        by_values[row["client_id"], row["route"], row["key"]]: KeptAnswer(
            row["request_sha256"], row["status"], orjson.loads(row["header_text"]), row["body"]
        )
        for row in rows
    }


async def keep_answers(connection: AnyConnection, answers: Mapping[AnswerKey, KeptAnswer]) -> bool:
    """Keep answers of new acts, in the order of their keys. False: one was kept meanwhile, so roll the acts back."""
    rows = [
        (*key.values, kept.request_sha256, kept.status, orjson.dumps(dict(kept.headers)).decode(), kept.body)
        for key, kept in sorted(answers.items(), key=lambda item: item[0].values)
    ]
    return count_of(await connection.execute(_KEEP_ALL, *zip(*rows, strict=True))) == len(rows)


async def try_lock(connection: AnyConnection, key: AnswerKey) -> bool:
    """Take the lock of a key until the transaction ends; False: another transaction has it."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1, $2)", *key.lock))


async def wait_for_lock(connection: AnyConnection, key: AnswerKey) -> None:
    """Take the lock of a key until the transaction ends, once another transaction that has it is over."""
    await connection.execute("SELECT pg_advisory_xact_lock($1, $2)", *key.lock)


async def keep_answer(postgres: Pool | AnyConnection, key: AnswerKey, answer: KeptAnswer) -> None:
    """Keep an answer, in the place of an earlier one. Raises AnswerTooLargeError."""
    answer.check_size()
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
