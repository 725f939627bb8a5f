"""The audit that every scenario ends with: what customers were told against what the installation knows."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from issuer.contract.keys import batch_keys, partition_keys, partition_of
from issuer.contract.outcomes import COUPON_HTTP, HTTP
from issuer.coupons.uses import consumption_id, parse_consumption_id
from tests.faults.traffic import TrafficAttempt, TrafficShop, TrafficWish
from tests.faults.world import PARTITIONS, FaultWorld
from tests.support.servers import wait_until

LIVE_LIMIT_S: Final = 30.0
DOCUMENTED: Final = {(answer.status, answer.code) for answer in (*HTTP.values(), *COUPON_HTTP.values())}
SOLD_OUT: Final = ("sold_out", "coupon_used_up")


@dataclass(slots=True)
class Findings:
    """What an audit found. `excused`: what is missing because its seq was quarantined, as a lossy fault may do."""

    violations: list[str] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    granted: int = 0
    in_fault: int = 0
    unknown: int = 0
    quarantined: int = 0

    def accuse(self, what: str) -> None:
        self.violations.append(what)


@dataclass(frozen=True, slots=True)
class _Row:
    pool_id: int
    seq: int
    code: str
    customer_id: UUID
    at_ms: int
    reversed: bool = False


_USES: Final = """
SELECT c.pool_id, c.seq, p.batch_id, c.customer_id, c.call_id, v.seq IS NOT NULL AS reversed,
  (extract(epoch FROM c.consumed_at) * 1000)::bigint AS at_ms
FROM consumptions c JOIN pools p ON p.id = c.pool_id LEFT JOIN reversals v ON v.pool_id = c.pool_id AND v.seq = c.seq"""

_POOLS: Final = """
SELECT p.*, c.available + c.reversed + c.released AS uses FROM pools p LEFT JOIN coupons c ON c.pool_id = p.id
ORDER BY p.id"""


@dataclass(slots=True)
class _Books:
    """What Postgres says, of all pools."""

    ledger: dict[tuple[UUID, str], _Row]
    seqs: dict[int, set[int]]
    quarantined: dict[int, set[int]]
    dead: dict[int, set[int]]
    pools: list[Any]
    seq_of_code: dict[tuple[UUID, str], tuple[int, int]]


def audit(
    world: FaultWorld,
    *,
    loss: bool = False,
    missing: bool = False,
    anomalies: Iterable[str] = (),
    dead_letters: bool = False,
) -> Findings:
    """Checks every promise, with the traffic stopped and the faults over.

    `loss`: codes may be quarantined. `missing`: redemptions may be missing, answers changed and limits passed as far as
    quarantined seqs explain them.
    `anomalies`: kinds that this scenario must find in the table. `dead_letters`: entries nobody can read are there.
    """
    findings = Findings()
    _check_liveness(world, findings)
    books = _read_books(world)
    attempts = world.traffic.attempts
    findings.requests = len(attempts)
    findings.in_fault = sum(attempt.in_fault for attempt in attempts)
    findings.unknown = sum(attempt.status is None for attempt in attempts)
    findings.quarantined = sum(map(len, books.quarantined.values()))
    good = [attempt for attempt in attempts if attempt.status == 200]
    findings.granted = sum(not attempt.replayed for attempt in good)
    if not (loss or missing) and findings.quarantined:
        findings.accuse(f"{findings.quarantined} codes quarantined where nothing can be missing")
    excuse = _Excuse(books, findings, missing)
    _check_answers(attempts, books, findings, world)
    _check_one_owner(good, findings)
    _check_in_ledger(good, books, excuse)
    _check_replays(good, excuse)
    if not (loss or missing):
        _check_unasked(attempts, books, findings)
    _check_limits(world.shops, good, books, excuse)
    _check_accounting(world, books, findings)
    _check_tables(world, findings, set(anomalies), dead_letters)
    _check_reconcile(world, findings)
    excuse.sum_up()
    return findings


def _check_liveness(world: FaultWorld, findings: Findings) -> None:
    shop = world.shops[0]
    deadline = time.monotonic() + LIVE_LIMIT_S
    for number in range(1_000):
        attempt = world.traffic.ask_once(TrafficWish(shop, shop.clients[0], UUID(int=(7 << 96) + number), None))
        if attempt.status == 200 or attempt.answer in SOLD_OUT:
            break  # whether it really is sold out is looked at with all other answers
        if time.monotonic() > deadline:
            findings.accuse(f"not alive {LIVE_LIMIT_S} s after the last fault: {attempt.status} {attempt.answer}")
            break
        time.sleep(0.05)
    try:
        wait_until(lambda: _waiting_events(world) == 0, "the streams are drained", LIVE_LIMIT_S)
    except TimeoutError:
        findings.accuse(f"{_waiting_events(world)} events never reached the ledger")


def _waiting_events(world: FaultWorld) -> int:
    with world.redis.client() as client:
        return sum(int(client.xlen(partition_keys(p).stream)) for p in range(PARTITIONS))


def _read_books(world: FaultWorld) -> _Books:
    ledger, seqs = {}, defaultdict(set)
    for row in world.sql(
        "SELECT pool_id, seq, batch_id, code, customer_id, (extract(epoch FROM redeemed_at) * 1000)::bigint AS at_ms"
        " FROM redemptions"
    ):
        seqs[row["pool_id"]].add(row["seq"])
        batch_id = UUID(bytes=row["batch_id"].bytes)
        customer_id = UUID(bytes=row["customer_id"].bytes)
        ledger[batch_id, row["code"]] = _Row(row["pool_id"], row["seq"], row["code"], customer_id, row["at_ms"])
    for row in world.sql(_USES):
        seqs[row["pool_id"]].add(row["seq"])
        batch_id, customer_id = UUID(bytes=row["batch_id"].bytes), UUID(bytes=row["customer_id"].bytes)
        name = consumption_id(row["pool_id"], row["seq"], row["call_id"].hex)
        ledger[batch_id, name] = _Row(row["pool_id"], row["seq"], name, customer_id, row["at_ms"], row["reversed"])
    aside, dead = defaultdict(set), defaultdict(set)
    for row in world.sql("SELECT pool_id, seq FROM quarantined WHERE released_at IS NULL"):
        aside[row["pool_id"]].add(row["seq"])
    for row in world.sql("SELECT pool_id, seq FROM dead_letters WHERE resolved_at IS NULL AND seq IS NOT NULL"):
        dead[row["pool_id"]].add(row["seq"])
    codes = {}
    for row in world.sql(
        "SELECT c.pool_id, c.seq, c.batch_id, c.code FROM codes c JOIN quarantined USING (pool_id, seq)"
    ):
        codes[UUID(bytes=row["batch_id"].bytes), row["code"]] = (row["pool_id"], row["seq"])
    return _Books(ledger, seqs, aside, dead, world.sql(_POOLS), codes)


class _Excuse:
    """Whether a broken promise is explained by a seq that was quarantined; otherwise it is a violation."""

    def __init__(self, books: _Books, findings: Findings, missing: bool) -> None:
        self.books = books
        self.findings = findings
        self.missing = missing

    def is_quarantined(self, batch_id: UUID, code: str) -> bool:
        pool_id, seq = self.books.seq_of_code.get((batch_id, code), (0, 0))
        if (use := parse_consumption_id(code)) is not None:
            pool_id, seq = use.pool_id, use.seq
        return self.missing and seq in self.books.quarantined.get(pool_id, ())

    def judge(self, what: str, detail: str, excused: bool) -> None:
        if excused:
            self.findings.excused[what] += 1
        else:
            self.findings.accuse(f"{what}: {detail}")

    def sum_up(self) -> None:
        """A thousand accusations of one kind say no more than the first few and their number."""
        kinds: dict[str, list[str]] = defaultdict(list)
        for violation in self.findings.violations:
            kinds[violation.partition(":")[0]].append(violation)
        self.findings.violations = [
            text
            for kind, texts in kinds.items()
            for text in (texts[:5] + ([f"{kind}: {len(texts)} in all"] if len(texts) > 5 else []))
        ]


def _check_answers(attempts: list[TrafficAttempt], books: _Books, findings: Findings, world: FaultWorld) -> None:
    strange = Counter(
        (a.status, a.answer)
        for a in attempts
        if a.status not in (None, 0, 200) and (a.status, a.answer) not in DOCUMENTED
    )
    for (status, answer), count in strange.items():
        findings.accuse(f"{count} answers {status} {answer!r}, which are not documented")
    for word in ("batch_not_found", "batch_expired", "batch_paused", "pool_inconsistent", "idempotency_key_reused",
                 "coupon_not_found", "coupon_expired", "coupon_paused", "wrong_product"):  # fmt: skip
        count = sum(attempt.answer == word and attempt.status != 200 for attempt in attempts)
        if count:
            findings.accuse(f"{count} answers {word!r}: nobody gave a reason for that")
    sold_out = {(a.wish.shop.batch_id, a.wish.client_id) for a in attempts if a.answer in SOLD_OUT}
    for pool in books.pools:
        where = (UUID(bytes=pool["batch_id"].bytes), UUID(bytes=pool["client_id"].bytes))
        total = pool["total"] if pool["uses"] is None else pool["uses"]
        if pool["uses"] is not None and _issued(world, pool) > total:
            findings.accuse(f"coupon {pool['id']} has {total} uses and was used {_issued(world, pool)} times")
        if where in sold_out and _issued(world, pool) < total:
            findings.accuse(f"pool {pool['id']} was called sold out and is not")


def _check_one_owner(good: list[TrafficAttempt], findings: Findings) -> None:
    """A code belongs to one wish: not to two customers, and not to two redemptions of one customer either."""
    owners: dict[tuple[UUID, str], dict[object, UUID]] = defaultdict(dict)
    for attempt in good:
        wish = attempt.wish
        owners[wish.shop.batch_id, attempt.answer][wish.key or id(attempt)] = wish.customer_id
    for (_, code), wishes in owners.items():
        if len(wishes) > 1:
            whom = f"{len(set(wishes.values()))} customers" if len(set(wishes.values())) > 1 else "one customer twice"
            findings.accuse(f"code {code} was handed to {whom}")


def _check_in_ledger(good: list[TrafficAttempt], books: _Books, excuse: _Excuse) -> None:
    for (batch_id, code), customer_id in {
        (a.wish.shop.batch_id, a.answer): a.wish.customer_id for a in good
    }.items():  # fmt: skip
        row = books.ledger.get((batch_id, code))
        if row is None:
            excuse.judge("missing in the ledger", f"code {code}", excuse.is_quarantined(batch_id, code))
        elif row.customer_id != customer_id:
            excuse.findings.accuse(f"code {code} stands in the ledger for another customer")


def _check_replays(good: list[TrafficAttempt], excuse: _Excuse) -> None:
    answers: dict[tuple[UUID, UUID, str], list[str]] = defaultdict(list)
    for attempt in sorted(good, key=lambda a: a.sent_at):
        wish = attempt.wish
        if wish.key is not None:
            told = answers[wish.shop.batch_id, wish.customer_id, wish.key]
            if attempt.answer not in told:
                told.append(attempt.answer)
    for (batch_id, _, key), told in answers.items():
        if len(told) > 1:
            # An old primary that lives on may still give its own answer after the new one has given another.
            excused = sum(not excuse.is_quarantined(batch_id, code) for code in told) <= 1
            excuse.judge("replay with another code", f"key {key}: {told}", excused)


def _check_limits(shops: list[TrafficShop], good: list[TrafficAttempt], books: _Books, excuse: _Excuse) -> None:
    """By the ledger's times (Redis' clock) for what is recorded; what is quarantined has none and is only counted."""
    times: dict[tuple[UUID, UUID], list[int]] = defaultdict(list)
    for (batch_id, _), row in books.ledger.items():
        if not row.reversed:
            times[batch_id, row.customer_id].append(row.at_ms)
    aside = Counter(
        (batch_id, customer_id)
        for batch_id, code, customer_id in {(a.wish.shop.batch_id, a.answer, a.wish.customer_id) for a in good}
        if excuse.is_quarantined(batch_id, code)
    )
    limits = {shop.batch_id: shop.limits for shop in shops}
    for (batch_id, customer_id), stamps in times.items():
        stamps.sort()
        for most, window_ms in limits[batch_id]:
            passed = (
                len(stamps) > most
                if window_ms is None
                else any(later - first < window_ms for first, later in zip(stamps, stamps[most:], strict=False))
            )
            if passed:
                detail = f"customer {customer_id} has {len(stamps)} at {stamps[:8]}, limit {most} in {window_ms} ms"
                excuse.judge("limit passed in the ledger", detail, False)
            elif window_ms is None and len(stamps) + aside[batch_id, customer_id] > most:
                excuse.judge("limit passed with quarantined codes", str(customer_id), True)


def _issued(world: FaultWorld, pool: Any) -> int:
    batch_id, client_id = UUID(bytes=pool["batch_id"].bytes), UUID(bytes=pool["client_id"].bytes)
    keys = batch_keys(partition_of(batch_id, PARTITIONS), batch_id)
    with world.redis.client() as client:
        return int(client.hget(keys.pool(client_id), "issued") or 0)


def _check_accounting(world: FaultWorld, books: _Books, findings: Findings) -> None:
    """Each seq up to `issued` in exactly one place (the backlog is empty by now), and none behind it anywhere."""
    for pool in books.pools:
        issued = _issued(world, pool)
        places = [books.seqs.get(pool["id"], set()), books.quarantined.get(pool["id"], set()),
                  books.dead.get(pool["id"], set())]  # fmt: skip
        found = Counter(seq for place in places for seq in place)
        twice = sorted(seq for seq, count in found.items() if count > 1)
        missing = sorted(set(range(1, issued + 1)) - found.keys())
        beyond = sorted(seq for seq in found if seq > issued)
        for what, seqs in (("in two places", twice), ("nowhere", missing), ("not issued", beyond)):
            if seqs:
                findings.accuse(f"pool {pool['id']}, issued {issued}: {len(seqs)} seqs {what}, first {seqs[:5]}")


def _check_tables(world: FaultWorld, findings: Findings, expected: set[str], dead_letters: bool) -> None:
    kinds = {row["kind"]: row["n"] for row in world.sql("SELECT kind, count(*) AS n FROM anomalies GROUP BY kind")}
    for kind, count in kinds.items():
        if kind not in expected:
            findings.accuse(f"{count} anomalies {kind!r}")
    for kind in expected - kinds.keys():
        findings.accuse(f"no anomaly {kind!r} was recorded")
    (letters,) = world.sql("SELECT count(*) AS n FROM dead_letters WHERE resolved_at IS NULL")
    if bool(letters["n"]) != dead_letters:
        findings.accuse(f"{letters['n']} dead letters")


def _check_reconcile(world: FaultWorld, findings: Findings) -> None:
    done = world.run_issuer("reconcile")
    if done.returncode != 0:
        findings.accuse(f"issuer reconcile exits {done.returncode}: {(done.stdout + done.stderr)[-600:]}")


def _check_unasked(attempts: list[TrafficAttempt], books: _Books, findings: Findings) -> None:
    """No wish takes two codes: what the ledger has beyond the answers fits the wishes of unknown outcome."""
    wishes: dict[tuple[UUID, UUID], dict[object, bool]] = defaultdict(dict)
    for attempt in attempts:
        wish = attempt.wish
        may_have = attempt.status in (None, 200) or attempt.answer in ("not_ready", "not_replicated")
        if may_have:
            wishes[wish.shop.batch_id, wish.customer_id][wish.key or id(attempt)] = True
    rows = Counter((batch_id, row.customer_id) for (batch_id, _), row in books.ledger.items())
    for (batch_id, customer_id), count in rows.items():
        asked = len(wishes.get((batch_id, customer_id), ()))
        if count > asked:
            findings.accuse(f"more codes than wishes: customer {customer_id} wished {asked} times, has {count}")
