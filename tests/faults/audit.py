"""The audit at the end of every scenario: compare the responses to the customers with the ledger and Redis."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from issuer.contract.keys import batch_keys, partition_of
from issuer.contract.outcomes import COUPON_HTTP, HTTP
from issuer.coupons.uses import parse_consumption_id
from tests.faults.postgres_state import PostgresState, read_state
from tests.faults.traffic import TrafficAttempt, TrafficBatch, TrafficRequest
from tests.faults.world import PARTITIONS, FaultWorld
from tests.support.servers import wait_until

LIVE_LIMIT_S: Final = 30.0
DOCUMENTED: Final = {(answer.status, answer.code) for answer in (*HTTP.values(), *COUPON_HTTP.values())}
SOLD_OUT: Final = ("sold_out", "coupon_used_up")


@dataclass(slots=True)
class Findings:
    """The result of an audit. `explained`: deviations whose seq was quarantined, which a lossy fault may cause."""

    violations: list[str] = field(default_factory=list)
    explained: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    granted: int = 0
    in_fault: int = 0
    unknown: int = 0
    quarantined: int = 0

    def add_violation(self, text: str) -> None:
        self.violations.append(text)


def audit(
    world: FaultWorld,
    *,
    loss: bool = False,
    missing: bool = False,
    anomalies: Iterable[str] = (),
    tolerated: Iterable[str] = (),
    dead_letters: bool = False,
) -> Findings:
    """Check every promise. The traffic is stopped and the faults are over.

    `loss`: codes may be quarantined. `missing`: redemptions may be missing, replays differ and limits be exceeded if
    quarantined seqs explain it. `anomalies`: kinds that must be in the table; `tolerated`: kinds that may be.
    `dead_letters`: there must be dead letters.
    """
    findings = Findings()
    _check_liveness(world, findings)
    state = read_state(world)
    attempts = world.traffic.attempts
    findings.requests = len(attempts)
    findings.in_fault = sum(attempt.in_fault for attempt in attempts)
    findings.unknown = sum(attempt.status is None for attempt in attempts)
    findings.quarantined = sum(map(len, state.quarantined.values()))
    good = [attempt for attempt in attempts if attempt.status == 200]
    findings.granted = sum(not attempt.replayed for attempt in good)
    if not (loss or missing) and findings.quarantined:
        findings.add_violation(f"{findings.quarantined} codes quarantined although nothing can be missing")
    violations = _ViolationFilter(state, findings, missing)
    _check_answers(attempts, state, findings, world)
    _check_one_owner(good, findings)
    _check_in_ledger(good, state, violations)
    _check_replays(good, violations)
    if not (loss or missing):
        _check_unexpected_rows(attempts, state, findings)
    _check_limits(world.batches, good, state, violations)
    _check_accounting(world, state, findings)
    _check_tables(world, findings, set(anomalies), set(tolerated), dead_letters)
    _check_reconcile(world, findings)
    _check_audit_log(world, findings)
    violations.shorten()
    return findings


def _check_liveness(world: FaultWorld, findings: Findings) -> None:
    batch = world.batches[0]
    deadline = time.monotonic() + LIVE_LIMIT_S
    for number in range(1_000):
        attempt = world.traffic.send_once(TrafficRequest(batch, batch.clients[0], UUID(int=(7 << 96) + number), None))
        if attempt.status == 200 or attempt.answer in SOLD_OUT:
            break  # _check_answers verifies that it is sold out
        if time.monotonic() > deadline:
            findings.add_violation(
                f"no code issued {LIVE_LIMIT_S} s after the last fault: {attempt.status} {attempt.answer}"
            )
            break
        time.sleep(0.05)
    try:
        wait_until(lambda: world.unrecorded_events() == 0, "all events are recorded", LIVE_LIMIT_S)
    except TimeoutError:
        findings.add_violation(f"{world.unrecorded_events()} events never reached the ledger")


class _ViolationFilter:
    """Distinguishes violations from deviations that a quarantined seq explains."""

    def __init__(self, state: PostgresState, findings: Findings, missing: bool) -> None:
        self.state = state
        self.findings = findings
        self.missing = missing

    def is_quarantined(self, batch_id: UUID, code: str) -> bool:
        pool_id, seq = self.state.seq_of_code.get((batch_id, code), (0, 0))
        if (use := parse_consumption_id(code)) is not None:
            pool_id, seq = use.pool_id, use.seq
        return self.missing and seq in self.state.quarantined.get(pool_id, ())

    def report(self, what: str, detail: str, explained: bool) -> None:
        if explained:
            self.findings.explained[what] += 1
        else:
            self.findings.add_violation(f"{what}: {detail}")

    def shorten(self) -> None:
        """Keep only the first violations of each kind, and their number."""
        kinds: dict[str, list[str]] = defaultdict(list)
        for violation in self.findings.violations:
            kinds[violation.partition(":")[0]].append(violation)
        self.findings.violations = [
            text
            for kind, texts in kinds.items()
            for text in (texts[:5] + ([f"{kind}: {len(texts)} in total"] if len(texts) > 5 else []))
        ]


def _check_answers(attempts: list[TrafficAttempt], state: PostgresState, findings: Findings, world: FaultWorld) -> None:
    undocumented = Counter(
        (a.status, a.answer)
        for a in attempts
        if a.status not in (None, 0, 200) and (a.status, a.answer) not in DOCUMENTED
    )
    for (status, answer), count in undocumented.items():
        findings.add_violation(f"{count} responses {status} {answer!r}, which are not documented")
    for code in ("batch_not_found", "batch_expired", "batch_paused", "pool_inconsistent", "idempotency_key_reused",
                 "coupon_not_found", "coupon_expired", "coupon_paused", "wrong_product"):  # fmt: skip
        count = sum(attempt.answer == code and attempt.status != 200 for attempt in attempts)
        if count:
            findings.add_violation(f"{count} responses {code!r} without a cause")
    sold_out = {(a.request.batch.batch_id, a.request.client_id) for a in attempts if a.answer in SOLD_OUT}
    for pool in state.pools:
        where = (UUID(bytes=pool["batch_id"].bytes), UUID(bytes=pool["client_id"].bytes))
        total = pool["total"] if pool["uses"] is None else pool["uses"]
        if pool["uses"] is not None and _issued(world, pool) > total:
            findings.add_violation(f"coupon {pool['id']} has {total} uses and was used {_issued(world, pool)} times")
        if where in sold_out and _issued(world, pool) < total:
            findings.add_violation(f"pool {pool['id']} was reported as sold out and is not")


def _check_one_owner(good: list[TrafficAttempt], findings: Findings) -> None:
    """Check that each code was issued for one request only: neither to two customers nor twice to one."""
    owners: dict[tuple[UUID, str], dict[object, UUID]] = defaultdict(dict)
    for attempt in good:
        request = attempt.request
        owners[request.batch.batch_id, attempt.answer][request.key or id(attempt)] = request.customer_id
    for (_, code), requests in owners.items():
        if len(requests) > 1:
            customers = len(set(requests.values()))
            owner = f"{customers} customers" if customers > 1 else "one customer twice"
            findings.add_violation(f"code {code} was issued to {owner}")


def _check_in_ledger(good: list[TrafficAttempt], state: PostgresState, violations: _ViolationFilter) -> None:
    for (batch_id, code), customer_id in {
        (a.request.batch.batch_id, a.answer): a.request.customer_id for a in good
    }.items():  # fmt: skip
        row = state.ledger.get((batch_id, code))
        if row is None:
            violations.report("missing in the ledger", f"code {code}", violations.is_quarantined(batch_id, code))
        elif row.customer_id != customer_id:
            violations.findings.add_violation(f"code {code} is in the ledger for another customer")


def _check_replays(good: list[TrafficAttempt], violations: _ViolationFilter) -> None:
    answers: dict[tuple[UUID, UUID, str], list[str]] = defaultdict(list)
    for attempt in sorted(good, key=lambda a: a.sent_at):
        request = attempt.request
        if request.key is not None:
            codes = answers[request.batch.batch_id, request.customer_id, request.key]
            if attempt.answer not in codes:
                codes.append(attempt.answer)
    for (batch_id, _, key), codes in answers.items():
        if len(codes) > 1:
            # An old primary that still runs may replay its own code after the new one has issued another.
            explained = sum(not violations.is_quarantined(batch_id, code) for code in codes) <= 1
            violations.report("replay with another code", f"key {key}: {codes}", explained)


def _check_limits(
    batches: list[TrafficBatch], good: list[TrafficAttempt], state: PostgresState, violations: _ViolationFilter
) -> None:
    """Check the limits by the times in the ledger (Redis' clock). Quarantined codes have no time and only count."""
    times: dict[tuple[UUID, UUID], list[int]] = defaultdict(list)
    for (batch_id, _), row in state.ledger.items():
        if not row.reversed:
            times[batch_id, row.customer_id].append(row.at_ms)
    quarantined = Counter(
        (batch_id, customer_id)
        for batch_id, code, customer_id in {(a.request.batch.batch_id, a.answer, a.request.customer_id) for a in good}
        if violations.is_quarantined(batch_id, code)
    )
    limits = {batch.batch_id: batch.limits for batch in batches}
    for (batch_id, customer_id), stamps in times.items():
        stamps.sort()
        for most, window_ms in limits[batch_id]:
            exceeded = (
                len(stamps) > most
                if window_ms is None
                else any(later - first < window_ms for first, later in zip(stamps, stamps[most:], strict=False))
            )
            if exceeded:
                detail = f"customer {customer_id} has {len(stamps)} at {stamps[:8]}, limit {most} in {window_ms} ms"
                violations.report("limit exceeded in the ledger", detail, False)
            elif window_ms is None and len(stamps) + quarantined[batch_id, customer_id] > most:
                violations.report("limit exceeded with quarantined codes", str(customer_id), True)


def _issued(world: FaultWorld, pool: Any) -> int:
    batch_id, client_id = UUID(bytes=pool["batch_id"].bytes), UUID(bytes=pool["client_id"].bytes)
    keys = batch_keys(partition_of(batch_id, PARTITIONS), batch_id)
    with world.redis.client() as client:
        return int(client.hget(keys.pool(client_id), "issued") or 0)


def _check_accounting(world: FaultWorld, state: PostgresState, findings: Findings) -> None:
    """Check that each seq up to `issued` is in exactly one place (the backlog is empty), and no higher one anywhere."""
    for pool in state.pools:
        issued = _issued(world, pool)
        places = [state.seqs.get(pool["id"], set()), state.quarantined.get(pool["id"], set()),
                  state.dead.get(pool["id"], set()), state.void.get(pool["id"], set())]  # fmt: skip
        found = Counter(seq for place in places for seq in place)
        twice = sorted(seq for seq, count in found.items() if count > 1)
        missing = sorted(set(range(1, issued + 1)) - found.keys())
        beyond = sorted(seq for seq in found if seq > issued)
        for what, seqs in (("in two places", twice), ("nowhere", missing), ("not issued", beyond)):
            if seqs:
                findings.add_violation(f"pool {pool['id']}, issued {issued}: {len(seqs)} seqs {what}, first {seqs[:5]}")


def _check_tables(
    world: FaultWorld, findings: Findings, expected: set[str], tolerated: set[str], dead_letters: bool
) -> None:
    kinds = {row["kind"]: row["n"] for row in world.sql("SELECT kind, count(*) AS n FROM anomalies GROUP BY kind")}
    for kind, count in kinds.items():
        if kind not in expected | tolerated:
            findings.add_violation(f"{count} anomalies {kind!r}")
    for kind in expected - kinds.keys():
        findings.add_violation(f"no anomaly {kind!r} was recorded")
    (letters,) = world.sql("SELECT count(*) AS n FROM dead_letters WHERE resolved_at IS NULL")
    if bool(letters["n"]) != dead_letters:
        findings.add_violation(f"{letters['n']} dead letters")


def _check_reconcile(world: FaultWorld, findings: Findings) -> None:
    done = world.run_issuer("reconcile")
    if done.returncode != 0:
        findings.add_violation(f"issuer reconcile exits {done.returncode}: {(done.stdout + done.stderr)[-600:]}")


def _check_audit_log(world: FaultWorld, findings: Findings) -> None:
    """Acts that are killed leave whole entries or none."""
    done = world.run_issuer("audit", "verify")
    if done.returncode != 0:
        findings.add_violation(f"issuer audit verify exits {done.returncode}: {(done.stdout + done.stderr)[-600:]}")


def _check_unexpected_rows(attempts: list[TrafficAttempt], state: PostgresState, findings: Findings) -> None:
    """Check that no request took two codes: rows without a response must match requests of unknown outcome."""
    requests: dict[tuple[UUID, UUID], dict[object, bool]] = defaultdict(dict)
    for attempt in attempts:
        request = attempt.request
        may_have = attempt.status in (None, 200) or attempt.answer in ("not_ready", "not_replicated")
        if may_have:
            requests[request.batch.batch_id, request.customer_id][request.key or id(attempt)] = True
    rows = Counter((batch_id, row.customer_id) for (batch_id, _), row in state.ledger.items())
    for (batch_id, customer_id), count in rows.items():
        requested = len(requests.get((batch_id, customer_id), ()))
        if count > requested:
            findings.add_violation(f"more codes than requests: customer {customer_id} sent {requested}, has {count}")
