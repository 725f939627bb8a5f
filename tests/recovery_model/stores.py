"""The faults of Redis and Postgres, and the steps of all parts together."""

from __future__ import annotations

from tests.recovery_model.processes import process_steps
from tests.recovery_model.recovering import after_steps, recovery_steps
from tests.recovery_model.rules import on
from tests.recovery_model.state import Data, State, Step, Steps, a_process_objects, may_fail, server, with_proc
from tests.recovery_model.worker import worker_steps


def steps(s: State) -> Steps:
    """Yield everything that can happen next."""
    eager = next(_eager_steps(s), None)
    if eager is not None:
        yield eager
        return
    for part in (
        process_steps(s, 0), process_steps(s, 1), worker_steps(s), recovery_steps(s), after_steps(s), _redis_faults(s),
        _postgres_faults(s),
    ):  # fmt: skip
        yield from part


def _eager_steps(s: State) -> Steps:
    """Steps whose moment makes no difference: taken at once, which keeps the number of states down."""
    for i, p in enumerate(s.procs):
        if p.up and p.link and not p.flight and server(s, p.link) is None:
            yield Step(f"P{i} finds its server gone", 0, with_proc(s, i, p._replace(link=0)))
    w = s.work
    if w is not None and w.done:
        data = server(s, w.run)
        if data is None or data.epoch != w.epoch or w.event not in data.stream:
            yield Step("the worker cannot ack (no such entry)", 0, s._replace(work=None))
    if w is not None and not w.done and (s.pg.epoch, s.pg.run) != (w.epoch, w.run):
        yield Step("the worker drops entries of a foreign incarnation", 0, s._replace(work=None))


def _copied(s: State) -> State:
    """Copy the data of Redis. A heartbeat follows: a copy that is restored later is older than a beat."""
    t, data = s._replace(snap=s.main), s.main
    if not on("beat"):
        return t
    beat = data.beat + 1
    procs = tuple(p._replace(beat=beat) if p.link == data.run and p.reg == data.epoch else p for p in s.procs)
    return t._replace(main=data._replace(beat=beat), pg=s.pg._replace(beat=max(s.pg.beat, beat)), procs=procs)


def _redis_faults(s: State) -> Steps:
    if not may_fail(s, "redis"):
        return
    data, snap = s.main, s.snap
    run = max(data.run, s.old.run if s.old else 0) + 1
    if snap is None and data.epoch > 0:
        yield Step("a copy of the Redis data is made", 0, _copied(s))
    empty = Data(data.run, 0, 0, 0, 0, (0, 0), 0, (), (), frozenset())
    for now, what in ((data, "with its data"), (empty, "empty"), (snap, "with the old copy")):
        if now is not None:
            yield Step(f"Redis restarts {what}", 1, s._replace(main=now._replace(run=run)))
    for now, what in ((data, "a replica with all data"), (empty, "an empty Redis"), (snap, "the old copy (a replica)")):
        if now is not None and s.old is None:
            t = s._replace(main=now._replace(run=run), old=data)
            yield Step(f"{what} takes over; the old primary lives on", 1, t)
    yield Step("Redis is flushed", 1, s._replace(main=empty))
    if snap is not None and data.epoch and snap[1:] != data[1:]:
        yield Step("the old copy is put back under the same run_id", 1, s._replace(main=snap._replace(run=data.run)))


def _postgres_faults(s: State) -> Steps:
    if not may_fail(s, "pg"):
        return
    if s.pg_snap is None:
        yield Step("a copy of Postgres is made", 0, s._replace(pg_snap=s.pg))
    elif not s.rolled:
        # The next heartbeat reports the beat again.
        back = s.pg_snap._replace(line=s.pg.line + 1, beat=s.pg.beat)
        t = s._replace(pg=back, rolled=True, recovery=None)
        heard = t._replace(procs=tuple(p._replace(up=True, cut=False) for p in t.procs))
        if a_process_objects(t) or not a_process_objects(heard):
            yield Step("Postgres returns to the copy", 1, t)
