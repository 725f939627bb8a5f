"""The batches that requests for codes name, in memory, so that a redemption by name does not query Postgres.

A name stands for the open batches of a client that have it or, if there is none, for its newest batch: the answers that
are kept for Idempotency-Keys outlive the batch. Only names that are used are kept. Those of the last minute are read
again twice a second in one query; the others are looked up again when they are used. While Postgres is unavailable a
name keeps its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID

from issuer.batches.batch import NOT_CAMPAIGN, OPEN
from issuer.batches.named import MAX_NAMED
from issuer.storage.look_ups import LookUps
from issuer.storage.postgres import Pool, PostgresUnavailableError, unavailable_translated
from issuer.storage.table_watch import TableWatch

BatchName = tuple[bytes, str]
"""The 16 bytes of a client's id, and the name."""

_FIND: Final = f"""
SELECT wanted.client_id, wanted.name, found.ids
FROM unnest($1::uuid[], $2::text[]) AS wanted (client_id, name) CROSS JOIN LATERAL (
  SELECT coalesce(array_agg(id) FILTER (WHERE is_open),
                  (array_agg(id ORDER BY ended_at IS NULL DESC, created_at DESC))[1:1]) AS ids
  FROM (
    SELECT id, created_at, ended_at, {OPEN} AS is_open FROM batches
    WHERE kind = 'codes' AND batches.name = wanted.name AND {NOT_CAMPAIGN}
      AND EXISTS (SELECT FROM pools WHERE pools.batch_id = batches.id AND pools.client_id = wanted.client_id)
    ORDER BY is_open DESC, ended_at IS NULL DESC, created_at DESC LIMIT {MAX_NAMED}
  ) AS named
) AS found WHERE found.ids IS NOT NULL"""


class KnownName:
    """What a name stands for: one id, or several open batches of that name."""

    __slots__ = ("idle", "ids", "is_fresh")

    def __init__(self, ids: tuple[UUID, ...]) -> None:
        self.ids = ids
        self.idle = 0
        self.is_fresh = True


class BatchNameCache:
    """Batches by client and name. A new name, a change of a name and the end of a batch count within 1 s."""

    POLL_S: Final = 0.5
    MAX_IDLE: Final = 120
    """Polls after which a name that is not used is no longer read again."""
    MAX_NAMES: Final = 10_000

    def __init__(self, postgres: Pool) -> None:
        self._postgres = postgres
        self._known: dict[BatchName, KnownName] = {}
        self._look_ups: LookUps[BatchName, tuple[UUID, ...]] = LookUps(self._look_up, "batches")
        self._watch = TableWatch(self._refresh, self.POLL_S, "names of batches")

    def start(self) -> None:
        """Start to watch the names in use."""
        self._watch.start()

    async def aclose(self) -> None:
        """Stop watching and cancel all look-ups; their callbacks are not called."""
        await self._watch.aclose()
        await self._look_ups.aclose()

    def find(self, name: BatchName) -> tuple[UUID, ...] | None:
        """Return the ids that the name stands for, if the cache knows them; more than one: it is ambiguous."""
        known = self._known.get(name)
        if known is None or not known.is_fresh:
            return None
        known.idle = 0
        return known.ids

    def start_look_up(self, name: BatchName, then: Callable[[tuple[UUID, ...] | Exception | None], None]) -> None:
        """Look up a name that `find` does not know: `then` gets its ids; None: no batch of the client has it."""
        self._look_ups.start(name, then)

    async def _look_up(self, name: BatchName) -> tuple[UUID, ...] | None:
        try:
            found = await self._read([name])
        except PostgresUnavailableError:
            known = self._known.get(name)
            if known is None:
                raise
            return known.ids
        if name not in found:
            self._known.pop(name, None)
            return None
        if name not in self._known and len(self._known) >= self.MAX_NAMES:
            del self._known[next(iter(self._known))]
        self._known[name] = KnownName(found[name])
        return found[name]

    async def _refresh(self) -> None:
        """Read the names in use again. What was added meanwhile is as new as this."""
        used = [name for name, known in self._known.items() if known.is_fresh]
        if not used:
            return
        before = {name: self._known[name] for name in used}
        found = await self._read(used)
        for name, known in before.items():
            if name not in found:
                if self._known.get(name) is known:
                    del self._known[name]
                continue
            known.ids = found[name]
            known.idle += 1
            known.is_fresh = known.idle <= self.MAX_IDLE

    async def _read(self, names: Iterable[BatchName]) -> dict[BatchName, tuple[UUID, ...]]:
        clients, texts = zip(*((UUID(bytes=client), name) for client, name in names), strict=True)
        async with unavailable_translated():
            rows = await self._postgres.fetch(_FIND, clients, texts)
        return {
            (row["client_id"].bytes, row["name"]): tuple(UUID(bytes=batch_id.bytes) for batch_id in row["ids"])
            for row in rows
        }
