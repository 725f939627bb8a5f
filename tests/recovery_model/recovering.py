"""What a recovery does, step by step, and what continues beside it: late rows, releases, the loader."""

from __future__ import annotations

from tests.recovery_model.rules import on
from tests.recovery_model.state import (
    BOUND,
    Base,
    Plan,
    Quarantined,
    RecoveryRun,
    State,
    Step,
    Steps,
    a_process_objects,
    accounted,
    commit,
    incident,
    knows,
    may_fail,
    record,
    reissue,
    token,
    with_pg,
)


def _needs_recovery(s: State) -> bool:
    pg, data = s.pg, s.main
    if pg.run is None or data.run != pg.run or data.epoch != pg.epoch:
        return True
    below = any(
        p.up and p.reg == pg.epoch and (p.seen > data.serial or (on("beat") and p.beat > data.beat)) for p in s.procs
    )
    return on("behind") and (below or (on("beat") and pg.beat > data.beat))


def _decide(s: State) -> State:
    """One transaction: verdict, void, re-issue or quarantine, and that it is decided."""
    pg, data, lost = s.pg, s.main, s.pg.last
    after = pg.since if on("carry") else lost - 1
    regs = [reg for reg in pg.registrations if after < reg.epoch <= lost]
    complete = all(reg.word >= 0 for reg in regs)
    reported = [reg.word for reg in regs] + [base.serial for base in pg.bases]
    known = max([row.serial for row in pg.ledger] + reported + [0])
    bases = tuple(base for base in pg.bases if base.epoch != lost)
    same = data.last == pg.last and data.serial >= known and (not on("beat") or data.beat >= pg.beat)
    if same and (complete or not on("promoted") or s.old is None):
        plan = Plan("restart", data.issued, data.serial)
        return with_pg(s, commit(pg._replace(plan=plan, bases=(*bases, Base(lost, data.serial)))))
    for event in data.stream:  # a restart keeps its stream; what is left of lost data is recorded first
        pg = record(pg, event)
    known = max([known] + [row.serial for row in pg.ledger])
    top = max(accounted(pg) | {0})
    if complete:
        pg = reissue(pg, set(range(1, top + 1)) - accounted(pg))
        pg = pg._replace(since=lost, plan=Plan("exact", top, known), bases=(*bases, Base(lost, known)))
        return with_pg(s, commit(pg))
    top = min(top + BOUND, len(pg.codes))
    new = {Quarantined(after, lost, seq) for seq in set(range(1, top + 1)) - accounted(pg)}
    pg = pg._replace(quarantined=pg.quarantined | new, since=lost, plan=Plan("bounded", top, known + BOUND))
    return with_pg(s, commit(pg._replace(bases=(*bases, Base(lost, known + BOUND)))))._replace(inexact=True)


def _rebuilt(s: State) -> State:
    pg = s.pg
    assert pg.plan is not None
    kind, issued, serial = pg.plan
    if kind == "restart":
        return s
    main = s.main._replace(
        serial=serial, beat=pg.beat, head=token(pg), issued=issued, pool=pg.codes[issued:], stream=(), kept=pg.ledger
    )
    return s._replace(pg=pg._replace(late=frozenset()), main=main)


def recovery_steps(s: State) -> Steps:
    pg, r, data = s.pg, s.recovery, s.main
    if r is None:
        yield from _fence_postgres(s)
        return
    if may_fail(s, "kill"):
        yield Step("the recovery is killed", 1, s._replace(recovery=None))
    if pg.epoch != r.epoch or pg.incident or data.run != r.run:
        yield Step("recovery: gives up (another server or epoch)", 0, s._replace(recovery=None))
    elif r.stage == "fence":
        t = s._replace(main=data._replace(epoch=-r.epoch), recovery=r._replace(stage="wait"))
        yield Step("recovery: fences Redis", 0, t)
    elif data.epoch != -r.epoch and r.stage != "bless":
        yield Step("recovery: gives up (not its fence)", 0, s._replace(recovery=None))
    elif r.stage == "wait":
        yield from _wait_steps(s, r)
    elif r.stage == "decide" and on("hearall") and a_process_objects(s):
        yield Step("recovery: hears that Postgres went back", 0, incident(s))
    elif r.stage == "decide":
        t = _decide(s)
        assert t.pg.plan is not None
        label = f"recovery: decides: {t.pg.plan.kind}, serial {t.pg.plan.serial}"
        yield Step(label, 0, t._replace(recovery=r._replace(stage="rebuild")))
    elif r.stage == "rebuild":
        t = _rebuilt(s)._replace(recovery=r._replace(stage="open"))
        yield Step("recovery: rebuilds Redis from Postgres", 0, t)
    elif r.stage == "open":
        data = data._replace(epoch=r.epoch, last=r.epoch)
        yield Step("recovery: blesses Redis", 0, s._replace(main=data, recovery=r._replace(stage="bless")))
    else:
        new = commit(pg._replace(run=r.run, last=r.epoch, plan=None))
        yield Step(f"recovery: blesses epoch {r.epoch} in Postgres", 0, s._replace(pg=new, recovery=None))


def _fence_postgres(s: State) -> Steps:
    pg, data = s.pg, s.main
    if pg.incident or not _needs_recovery(s):
        return
    if data.epoch and (data.last > pg.epoch or not knows(pg, data.head)):
        yield Step("a recovery finds Redis ahead of Postgres", 0, incident(s))
        return
    plan = pg.plan if pg.plan is not None and pg.plan.kind != "restart" else None
    new = commit(pg._replace(epoch=max(pg.epoch, abs(data.epoch)) + 1, run=None, plan=plan))
    t = s._replace(pg=new, recovery=RecoveryRun("fence", new.epoch, data.run))
    yield Step(f"recovery: fences Postgres (epoch {new.epoch})", 0, t)


def _wait_steps(s: State, r: RecoveryRun) -> Steps:
    pg, cost = s.pg, 0
    if pg.plan is not None and pg.plan.kind != "restart":
        t = s._replace(recovery=r._replace(stage="rebuild"))
        yield Step("recovery: continues with what was decided", 0, t)
        return
    for p in s.procs:
        unsettled = any(reg.pid == p.pid and reg.word < 0 for reg in pg.registrations)
        if p.up and not p.cut and p.epoch != pg.epoch and (unsettled or on("hearall")):
            cost = 1
    if not cost or may_fail(s, "api"):
        label = "stops waiting for a living process (silent)" if cost else "has heard who is there"
        yield Step(f"recovery: {label}", cost, s._replace(recovery=r._replace(stage="decide")))


def after_steps(s: State) -> Steps:
    """Late rows to Redis, registrations carried over, release of quarantine, the loader."""
    pg, data = s.pg, s.main
    if pg.incident:
        return
    if data.epoch and not knows(pg, data.head):
        yield Step("the guardian finds that Postgres went back", 0, incident(s))
    if a_process_objects(s):
        yield Step("a heartbeat finds that Postgres went back", 0, incident(s))
    if not pg.run or (data.run, data.epoch) != (pg.run, pg.epoch):
        return
    if pg.late:
        kept = data.kept | pg.late if on("keep") else data.kept
        t = s._replace(main=data._replace(kept=kept), pg=pg._replace(late=frozenset()))
        yield Step("windows and answers of rows recorded late are put into Redis", 0, t)
    if not any(event.epoch < pg.epoch for event in data.stream) and on("carry"):
        # Every epoch since the last loss ended in a restart: what any process received then is in the ledger by now.
        regs = frozenset(
            reg._replace(word=0) if reg.word < 0 and pg.since < reg.epoch < pg.epoch else reg
            for reg in pg.registrations
        )
        if regs != pg.registrations:
            label = "registrations carried over a restart are settled: all of it is in the ledger"
            yield Step(label, 0, with_pg(s, commit(pg._replace(registrations=regs))))
    yield from _release_steps(s)
    loaded = data.issued + len(data.pool)
    if loaded < len(pg.codes):
        yield Step("the loader pushes the tail", 0, s._replace(main=data._replace(pool=data.pool + pg.codes[loaded:])))


def _release_steps(s: State) -> Steps:
    pg = s.pg
    for after, to in {(q.after, q.to) for q in pg.quarantined}:
        regs = [reg for reg in pg.registrations if after < reg.epoch <= to]
        unsettled = [reg for reg in regs if reg.word < 0]
        if not unsettled or (not on("all") and len(unsettled) < len(regs)):
            seqs = {q.seq for q in pg.quarantined if (q.after, q.to) == (after, to)}
            rest = frozenset(q for q in pg.quarantined if (q.after, q.to) != (after, to))
            new = reissue(pg._replace(quarantined=rest), seqs)
            yield Step(f"the quarantine of epoch {to} is released with new seqs", 0, with_pg(s, commit(new)))
