"""What can be reported: the columns, the filters and the one query of each report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson

from issuer.batches.rules import parse_rules


class Filter(StrEnum):
    """What a report can be narrowed to. FROM is included, TO is not."""

    BATCH = "batch_id"
    CLIENT = "client_id"
    CUSTOMER = "customer_id"
    FROM = "from"
    TO = "to"


TIMES: Final = (Filter.FROM, Filter.TO)

Selection = Mapping[Filter, UUID | datetime]
"""The filters that are set. Each must be one of the report's."""


@dataclass(frozen=True, slots=True)
class Report:
    """One report.

    `query` selects exactly the columns and takes the filters as its parameters, $1 the first; one that is null
    filters nothing. CLIENT must be among them and must leave nothing of another client in the rows: keys that are
    bound to a client get their reports through it. Values are shown as `formats.plain` does, those of the columns in
    `shown` as these functions do.
    """

    name: str
    summary: str
    filters: tuple[Filter, ...]
    columns: tuple[str, ...]
    query: str
    shown: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)

    def arguments(self, selection: Selection) -> list[UUID | datetime | None]:
        """The parameters of the query. A filter that the report does not have is a mistake of the caller."""
        unknown = selection.keys() - set(self.filters)
        if unknown:
            raise ValueError(f"{self.name} have no filter {', '.join(sorted(unknown))}")
        return [selection.get(name) for name in self.filters]


REDEMPTIONS: Final = Report(
    name="redemptions",
    summary="What was handed out, as the ledger has it: one row a redemption, in order of pool and seq",
    filters=(Filter.BATCH, Filter.CLIENT, Filter.CUSTOMER, Filter.FROM, Filter.TO),
    columns=(
        "batch_id", "client_id", "code", "customer_id", "redeemed_at", "seq", "recorded_at", "api_key_id",
        "idempotency_key_hash",
    ),
    query="""
SELECT r.batch_id, p.client_id, r.code, r.customer_id, r.redeemed_at, r.seq, r.recorded_at, r.api_key_id,
  r.key_hash AS idempotency_key_hash
FROM redemptions r JOIN pools p ON p.id = r.pool_id
WHERE ($1::uuid IS NULL OR r.pool_id = ANY(SELECT id FROM pools WHERE batch_id = $1))
  AND ($2::uuid IS NULL OR r.pool_id = ANY(SELECT id FROM pools WHERE client_id = $2))
  AND ($3::uuid IS NULL OR r.customer_id = $3)
  AND ($4::timestamptz IS NULL OR r.redeemed_at >= $4)
  AND ($5::timestamptz IS NULL OR r.redeemed_at < $5)
ORDER BY r.pool_id, r.seq""",
)  # fmt: skip

BATCHES: Final = Report(
    name="batches",
    summary="Batches, newest first, with how many codes each has and how many of them the ledger has as redeemed. "
    "The time is that of their making; with a client only what is that client's counts",
    filters=(Filter.BATCH, Filter.CLIENT, Filter.FROM, Filter.TO),
    columns=(
        "id", "name", "rules", "expired", "starts_at", "ends_at", "paused", "created_at", "ended_at", "codes",
        "redeemed",
    ),
    query="""
SELECT b.id, b.name, b.rules::text AS rules, b.ended_at IS NOT NULL OR coalesce(b.ends_at <= now(), false) AS expired,
  b.starts_at, b.ends_at, b.paused, b.created_at, b.ended_at, stock.codes, stock.redeemed
FROM batches b CROSS JOIN LATERAL (
  SELECT coalesce(sum(p.total), 0)::bigint AS codes, count(*) AS pools,
    coalesce(sum((SELECT count(*) FROM redemptions r WHERE r.pool_id = p.id)), 0)::bigint AS redeemed
  FROM pools p WHERE p.batch_id = b.id AND ($2::uuid IS NULL OR p.client_id = $2)
) stock
WHERE ($1::uuid IS NULL OR b.id = $1)
  AND ($2::uuid IS NULL OR stock.pools > 0)
  AND ($3::timestamptz IS NULL OR b.created_at >= $3)
  AND ($4::timestamptz IS NULL OR b.created_at < $4)
ORDER BY b.created_at DESC, b.id DESC""",
    shown={"rules": lambda text: parse_rules(orjson.loads(text)).to_json()},
)  # fmt: skip

REPORTS: Final[dict[str, Report]] = {report.name: report for report in (REDEMPTIONS, BATCHES)}
"""Every report, by its name: over HTTP, on the command line and in the documentation."""
