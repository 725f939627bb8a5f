"""What the worker does: read an event, commit it to the ledger, ack it."""

from __future__ import annotations

from tests.recovery_model.rules import on
from tests.recovery_model.state import (
    State,
    Step,
    Steps,
    WorkInHand,
    commit,
    incident,
    knows,
    may_fail,
    record,
    server,
    token,
    with_pg,
    with_server,
)


def worker_steps(s: State) -> Steps:
    if s.work is None:
        yield from _read_steps(s)
        return
    w = s.work
    if not w.done:
        if not knows(s.pg, w.head):
            yield Step("the worker finds that Postgres went back", 0, incident(s._replace(work=None)))
        elif not s.pg.incident:
            new = commit(record(s.pg, w.event))
            t = with_pg(s, new)._replace(work=w._replace(done=True, head=token(new)))
            yield Step(f"the worker commits serial {w.event.serial} to the ledger", 0, t)
    else:
        data = server(s, w.run)
        assert data is not None
        stream = tuple(event for event in data.stream if event != w.event)
        t = with_server(s, data._replace(stream=stream, head=w.head))._replace(work=None)
        if on("lineage") and not knows(s.pg, data.head):
            t = incident(t)
        yield Step(f"the worker acks serial {w.event.serial}", 0, t)
    if may_fail(s, "kill"):
        yield Step("the worker is killed", 1, s._replace(work=None))


def _read_steps(s: State) -> Steps:
    for data in (s.main, s.old):
        if data is not None and data.epoch > 0 and data.stream and not s.pg.incident:
            where = "" if data is s.main else " on the old primary"
            for event in data.stream:
                t = s._replace(work=WorkInHand(data.run, data.epoch, event, data.head, False))
                yield Step(f"the worker reads serial {event.serial}{where}", 0, t)
