"""The audit of the ledger of points: every account is what its entries, buckets, holds and pending points add up to.

It runs in SQL over ranges of accounts, each range in one snapshot, so it is exact while operations continue and its
memory is bounded. Every entry must change the figures as EFFECTS says, and the seqs must have no gaps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from issuer.instants import to_ms
from issuer.loyalty.bounds import MAX_POINTS, NEVER
from issuer.loyalty.effects import EFFECTS
from issuer.storage.postgres import Pool, unavailable_translated

MAX_SHOWN: Final = 20
RANGE_SIZE: Final = 10_000
"""Accounts of one statement."""
TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class AccountProblem:
    """An account that does not balance, with what does not hold."""

    account_id: int
    problem: str


@dataclass(slots=True)
class PointsReconciliation:
    """What the audit has found. `problems`: the first of them; `broken`: how many there are."""

    accounts: int = 0
    entries: int = 0
    broken: int = 0
    problems: list[AccountProblem] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return self.broken == 0

    def to_json(self) -> dict[str, Any]:
        return {
            "holds": self.holds,
            "accounts": self.accounts,
            "entries": self.entries,
            "broken": self.broken,
            "problems": [asdict(problem) for problem in self.problems],
        }


def _effects_sql() -> str:
    rows: Iterable[str] = (f"('{op}', {e.balance}, {e.pending}, {e.lifetime})" for op, e in EFFECTS.items())
    return ", ".join(rows)


_RANGE: Final = "SELECT max(id) FROM (SELECT id FROM accounts WHERE id > $1 ORDER BY id LIMIT $2) AS next"

# What the JSON of buckets has to be, as no type of a column says it. The type of a value is asked for in front of what
# it is compared with: of an unknown and a true the result is true.
_READABLE: Final = f"""strict $.type() == "array" && !exists($[*] ? (
  @.type() != "array" || @.size() != 2 || @[0].type() != "number" || @[1].type() != "number"
  || @[0] != @[0].floor() || @[0] < 0 || @[0] > {to_ms(NEVER)}
  || @[1] != @[1].floor() || @[1] < 1 || @[1] > {MAX_POINTS}))"""

_AUDIT: Final = f"""
WITH effects (op, balance, pending, lifetime) AS (VALUES {_effects_sql()}),
lines AS (
  SELECT e.account_id, e.seq, e.seq - lag(e.seq, 1, 0::bigint) OVER w AS step, f.op IS NULL AS is_unknown,
    e.available + e.held - e.debt - lag(e.available + e.held - e.debt, 1, 0::bigint) OVER w
      - f.balance * e.points AS balance_off,
    e.pending - lag(e.pending::bigint, 1, 0::bigint) OVER w - f.pending * e.points AS pending_off,
    e.lifetime - lag(e.lifetime::bigint, 1, 0::bigint) OVER w - f.lifetime * e.points AS lifetime_off,
    e.debt > 0 AND e.available > 0 AS owes_with_points,
    e.available, e.held, e.pending, e.debt, e.lifetime
  FROM entries e LEFT JOIN effects f USING (op)
  WHERE e.account_id > $1 AND e.account_id <= $2
  WINDOW w AS (PARTITION BY e.account_id ORDER BY e.seq)),
ledger AS (
  SELECT account_id, count(*) AS entries, max(seq) AS seq,
    count(*) FILTER (WHERE step <> 1) AS gaps, count(*) FILTER (WHERE is_unknown) AS unknown,
    count(*) FILTER (WHERE balance_off <> 0 OR pending_off <> 0 OR lifetime_off <> 0) AS wrong,
    count(*) FILTER (WHERE owes_with_points) AS owing FROM lines GROUP BY account_id),
last AS (
  SELECT DISTINCT ON (account_id) account_id, available, held, pending, debt, lifetime
  FROM lines ORDER BY account_id, seq DESC),
parts AS (
  SELECT account_id, sum(points) FILTER (WHERE kind = 'h') AS held, sum(points) FILTER (WHERE kind = 'p') AS pending,
    min(due_at) AS due_at
  FROM (
    SELECT 'h' AS kind, account_id, points, expires_at AS due_at FROM points_holds
      WHERE account_id > $1 AND account_id <= $2 AND state = 'open'
    UNION ALL SELECT 'p', account_id, points, available_at FROM pending_points
      WHERE account_id > $1 AND account_id <= $2) AS part
  GROUP BY account_id)
SELECT count(*) OVER () AS accounts, sum(coalesce(l.entries, 0)) OVER () AS total_entries, a.id,
  concat_ws('; ',
    CASE WHEN l.gaps > 0 THEN l.gaps || ' gaps in its seqs' END,
    CASE WHEN l.unknown > 0 THEN l.unknown || ' entries of an unknown kind' END,
    CASE WHEN l.wrong > 0 THEN l.wrong || ' entries change the figures by other than their points' END,
    CASE WHEN l.owing > 0 THEN l.owing || ' entries with a debt beside available points' END,
    CASE WHEN a.seq <> coalesce(l.seq, 0) THEN 'the latest entry is ' || coalesce(l.seq, 0) || ', not ' || a.seq END,
    CASE WHEN (a.available, a.held, a.pending, a.debt, a.lifetime)
      <> (coalesce(t.available, 0), coalesce(t.held, 0), coalesce(t.pending, 0), coalesce(t.debt, 0),
          coalesce(t.lifetime, 0)) THEN 'its figures are not those of its latest entry' END,
    CASE WHEN r.buckets IS NULL THEN 'its buckets cannot be read' END,
    CASE WHEN a.available <> coalesce(b.available, 0) THEN 'its buckets have other points than are available' END,
    CASE WHEN b.unordered > 0 THEN 'its buckets are not in the order of their expiry, each once' END,
    CASE WHEN extract(epoch FROM a.due_at) * 1000
      <> least(b.due_ms, extract(epoch FROM p.due_at) * 1000, {to_ms(NEVER)})
      THEN 'it is due at another instant than what it has' END,
    CASE WHEN a.held <> coalesce(p.held, 0) THEN 'its holds have other points than are held' END,
    CASE WHEN a.pending <> coalesce(p.pending, 0) THEN 'its pending points are other than it states' END) AS problem
FROM accounts a LEFT JOIN ledger l ON l.account_id = a.id LEFT JOIN last t ON t.account_id = a.id
  LEFT JOIN parts p ON p.account_id = a.id
  CROSS JOIN LATERAL (
    SELECT CASE WHEN jsonb_path_match(a.buckets, '{_READABLE}', silent => true) THEN a.buckets END AS buckets) r
  CROSS JOIN LATERAL (
    SELECT sum(points) AS available, min(ms) AS due_ms, count(*) FILTER (WHERE step <= 0) AS unordered
    FROM (
      SELECT (bucket->>1)::bigint AS points, (bucket->>0)::bigint AS ms,
        (bucket->>0)::bigint - lag((bucket->>0)::bigint) OVER (ORDER BY place) AS step
      FROM jsonb_array_elements(r.buckets) WITH ORDINALITY AS kept (bucket, place)) AS lots) b
WHERE a.id > $1 AND a.id <= $2"""

_FOUND: Final = f"""
WITH audited AS ({_AUDIT})
SELECT (SELECT accounts FROM audited LIMIT 1), (SELECT total_entries FROM audited LIMIT 1),
  (SELECT count(*) FROM audited WHERE problem <> '') AS broken,
  (SELECT array_agg(id) FROM (SELECT id FROM audited WHERE problem <> '' ORDER BY id LIMIT $3) AS first) AS ids,
  (SELECT array_agg(problem) FROM (SELECT problem FROM audited WHERE problem <> '' ORDER BY id LIMIT $3) AS first)
    AS problems"""


async def reconcile_points(postgres: Pool) -> PointsReconciliation:
    """Audit every account. Change nothing. Raises PostgresUnavailableError."""
    result = PointsReconciliation()
    after = 0
    async with unavailable_translated():
        while (last := await postgres.fetchval(_RANGE, after, RANGE_SIZE)) is not None:
            row = await postgres.fetchrow(_FOUND, after, last, MAX_SHOWN, timeout=TIMEOUT_S)
            assert row is not None
            result.accounts += row["accounts"]
            result.entries += int(row["total_entries"])
            result.broken += row["broken"]
            found = zip(row["ids"] or (), row["problems"] or (), strict=True)
            result.problems += [AccountProblem(*one) for one in found]
            after = last
    del result.problems[MAX_SHOWN:]
    return result
