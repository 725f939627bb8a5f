"""What an API process does: register, call, journal, answer, settle; and how it, its host or its connection fails."""

from __future__ import annotations

from tests.recovery_model.rules import AT_REST, BOUNDS, on
from tests.recovery_model.script import Granted, script
from tests.recovery_model.state import (
    MOST_CALLS,
    Fact,
    File,
    Flight,
    Host,
    Postgres,
    Registration,
    State,
    Step,
    Steps,
    a_process_objects,
    commit,
    incident,
    knows,
    may_fail,
    put,
    record,
    server,
    token,
    with_host,
    with_pg,
    with_proc,
    with_server,
)


def settle(s: State, i: int, pg: Postgres, *, own: bool) -> Postgres:
    """Settle what the process may settle now: those of dead ones whose journal it holds, and with `own` its own."""
    settled, host = set(), s.hosts[i]
    files = {file.pid: file for file in host.files}
    for reg in pg.registrations:
        word = reg.word
        if reg.host == i and word < 0:
            file = files.get(reg.pid)
            if reg.pid == s.procs[i].pid:  # one process a host: any other pid of this host is dead
                word = s.procs[i].seen if own else word
            elif not ((on("disk") and file is None) or (on("boot") and file is not None and file.boot != host.boot)):
                word = max([event.serial for event in file.receipts] if file else [0], default=0)
        settled.add(reg._replace(word=word))
    return pg._replace(registrations=frozenset(settled))


def replayed(s: State, i: int) -> Postgres:
    pg = s.pg
    for file in s.hosts[i].files:
        for event in file.receipts:
            pg = record(pg, event)
    return pg


def give_word(s: State, i: int, *, own: bool = True) -> State:
    """Meet a new epoch: close the link, replay the host's journal, settle. Not `own`: only what dead processes left."""
    p, host = s.procs[i], s.hosts[i]
    if not (knows(s.pg, p.head) and knows(s.pg, host.head)):
        return incident(s)
    pg = commit(settle(s, i, replayed(s, i), own=own))
    s = with_host(with_pg(s, pg), i, host._replace(head=token(pg)))
    if not own:
        return s
    p = p._replace(epoch=pg.epoch, run=None, reg=0, head=token(pg))
    if on("close"):
        p = p._replace(link=0, flight=None)
    return with_proc(s, i, p)


def enroll(s: State, i: int) -> State:
    """Register, then connect to the server whose pair the process has learned."""
    s = register(s, i)
    return s if s.pg.incident else connect(s, i)


def register(s: State, i: int) -> State:
    """Register for the present epoch, in which no server need be blessed yet."""
    p = s.procs[i]
    if not knows(s.pg, p.head) or (on("hearall") and a_process_objects(s)):
        return incident(s)
    pg = commit(s.pg._replace(registrations=s.pg.registrations | {Registration(p.pid, i, p.epoch, -1)}))
    host = s.hosts[i]._replace(head=token(pg))
    if p.pid not in [file.pid for file in host.files]:
        host = host._replace(files=(*host.files, File(p.pid, host.boot, ())))
    p = p._replace(reg=p.epoch, seen=0, head=token(pg))
    return with_host(with_proc(with_pg(s, pg), i, p), i, host)


def connect(s: State, i: int) -> State:
    """Connect for the first time since the process has registered."""
    p, pg = s.procs[i], s.pg
    if not knows(pg, p.head) or (on("hearall") and a_process_objects(s)):
        return incident(s)
    assert p.run is not None
    p, data = p._replace(link=p.run, beat=pg.beat), server(s, p.run)
    assert data is not None
    if (
        on("lineage") and data.epoch == p.reg
    ):  # as the ack does: the data set gets the token, and what it replaces is known
        if not knows(pg, data.head):
            return incident(s)
        s = with_server(s, data._replace(head=p.head))
    return with_proc(s, i, p)


def process_steps(s: State, i: int) -> Steps:
    p = s.procs[i]
    if not p.up:
        if (p.pid % 10 < 2 or s.faults == AT_REST) and not s.pg.incident:
            fresh = p._replace(
                up=True, pid=p.pid + 1, epoch=s.pg.epoch, run=None, seen=0, beat=0, head=(0, 0), cut=False
            )
            yield Step(f"P{i} starts again on host {i}", 0, with_proc(s, i, fresh))
        return
    yield from _postgres_steps(s, i)
    if p.reg and not p.link and not p.flight and p.run is not None and server(s, p.run):
        yield Step(f"P{i} connects again", 0, with_proc(s, i, p._replace(link=p.run)))
    if p.flight:
        yield from _flight_steps(s, i)
    elif p.link:
        yield from _call_steps(s, i)
    if may_fail(s, "api"):
        dead = p._replace(up=False, flight=None, link=0, reg=0)
        yield Step(f"P{i} is killed", 1, with_proc(s, i, dead))
        if not p.cut:
            yield Step(f"P{i} is cut off from Postgres", 1, with_proc(s, i, p._replace(cut=True)))
    if may_fail(s, "host"):
        yield from _host_faults(s, i)
    yield from _deletion_steps(s, i)


def _postgres_steps(s: State, i: int) -> Steps:
    p, pg, name = s.procs[i], s.pg, f"P{i}"
    speaks = not p.cut and not pg.incident
    if p.cut:
        yield Step(f"{name} reaches Postgres again", 0, with_proc(s, i, p._replace(cut=False)))
    if speaks and p.epoch != pg.epoch:
        label = f"{name} meets epoch {pg.epoch}, replays the journal of host {i} and gives its word"
        yield Step(label, 0, give_word(s, i))
    if speaks and settle(s, i, pg, own=False).registrations != pg.registrations:
        label = f"{name} replays and settles what dead processes left on host {i}"
        yield Step(label, 0, give_word(s, i, own=False))
    if not on("lock") and pg.epoch != p.epoch and not pg.incident:
        yield from _settled_by_another(s, i)
    if speaks and p.epoch == pg.epoch and pg.run and not p.flight and not p.reg:
        if on("regtx") and server(s, pg.run):
            t = enroll(with_proc(s, i, p._replace(run=pg.run)), i)
            yield Step(f"{name} registers for epoch {pg.epoch} and connects", 0, t)
        elif not on("regtx") and p.run != pg.run:
            yield Step(f"{name} learns the pair of epoch {pg.epoch}", 0, with_proc(s, i, p._replace(run=pg.run)))
    if speaks and p.epoch == pg.epoch and not pg.run and not p.reg and on("regtx"):
        yield Step(f"{name} registers for epoch {pg.epoch}, of a recovery in progress", 0, register(s, i))
    if speaks and p.reg == pg.epoch and pg.run and p.run is None and server(s, pg.run):
        t = connect(with_proc(s, i, p._replace(run=pg.run)), i)
        yield Step(f"{name} connects in epoch {pg.epoch}", 0, t)
    if not on("regtx") and speaks and p.run and not p.reg and server(s, p.run):
        yield Step(f"{name} registers for epoch {p.epoch} and connects", 0, enroll(s, i))


def _settled_by_another(s: State, i: int) -> Steps:
    """Without the lock: another process of the host takes the journal of one that only stands still."""
    p, new = s.procs[i], replayed(s, i)
    regs = frozenset(r._replace(word=max(r.word, p.seen)) if r.host == i else r for r in new.registrations)
    new = new._replace(registrations=regs)
    if new != s.pg:
        label = f"another process on host {i} replays its journals and settles P{i}, which stands still"
        yield Step(label, 0, with_pg(s, commit(new)))


def _flight_steps(s: State, i: int) -> Steps:
    p, host, name = s.procs[i], s.hosts[i], f"P{i}"
    assert p.flight is not None
    held, event, granted = p.flight
    if held:
        answered = with_proc(s, i, p._replace(flight=None))
        answered = answered._replace(answers=s.answers | {(event.key, event.code)})
        yield Step(f"{name} answers {event.code} to {event.key}", 0, answered)
        return
    files = tuple(
        file._replace(receipts=(*file.receipts, event))
        if file.pid == p.pid and event not in file.receipts and (granted or on("replay"))
        else file
        for file in host.files
    )
    t = with_proc(s, i, p._replace(flight=p.flight._replace(held=True), seen=max(p.seen, event.serial)))
    verb = "journals" if files != host.files else "reads"
    label = f"{name} {verb} {event.code} for {event.key}"
    yield Step(label, 0, with_host(t, i, host._replace(files=files)))
    dropped = with_proc(s, i, p._replace(flight=None))
    if may_fail(s, "host") and verb == "journals":
        label = f"{name} cannot append the receipt of {event.code} (disk full)"
        yield Step(label, 1, dropped if on("append") else t._replace(lossy=True))
    if may_fail(s, "api"):
        lost = with_proc(s, i, p._replace(flight=None, link=0))
        yield Step(f"the reply to {name} is lost with its connection", 1, lost)


def _call_steps(s: State, i: int) -> Steps:
    p, data = s.procs[i], server(s, s.procs[i].link)
    assert data is not None
    where = "" if data is s.main else " on the old primary"
    for k, (key, count) in enumerate(s.sent):
        if count >= MOST_CALLS[key]:
            continue
        new, reply = script(data, p.reg, p.seen, p.beat, key)
        if isinstance(reply, Granted):
            event, granted = reply
            t = with_proc(with_server(s, new), i, p._replace(flight=Flight(False, event, granted)))
            t = t._replace(sent=put(s.sent, k, (key, count + 1)))
            word = "granted" if granted else "replayed"
            yield Step(f"P{i} calls for {key}{where}: {event.code} {word} (serial {event.serial})", 0, t)
        elif reply in ("STALE_EPOCH", "BEHIND"):
            yield Step(f"P{i} calls{where}: {reply}", 0, with_proc(s, i, p._replace(link=0)))
            break


def _host_faults(s: State, i: int) -> Steps:
    p, host = s.procs[i], s.hosts[i]
    dead = with_proc(s, i, p._replace(up=False, flight=None, link=0, reg=0))._replace(lossy=True)
    if host.files:
        yield Step(f"host {i} is lost with its disk", 1, with_host(dead, i, Host(host.boot + 1, (), (0, 0))))
    if any(file.receipts for file in host.files if file.pid == p.pid):
        cut = tuple(file._replace(receipts=file.receipts[:-1]) if file.pid == p.pid else file for file in host.files)
        t = with_host(dead, i, host._replace(boot=host.boot + 1, files=cut))
        yield Step(f"host {i} loses power; the last record was not on its disk", 1, t)


def _deletion_steps(s: State, i: int) -> Steps:
    p, pg, host = s.procs[i], s.pg, s.hosts[i]
    if "pg" not in BOUNDS.menu or p.cut or pg.incident or p.epoch != pg.epoch or not p.reg or not knows(pg, p.head):
        return

    def left(receipts: tuple[Fact, ...]) -> tuple[Fact, ...]:
        return tuple(event for event in receipts if event not in pg.ledger)

    files = tuple(file._replace(receipts=left(file.receipts)) for file in host.files)
    if files != host.files:
        t = with_proc(s, i, p._replace(head=token(pg)))
        t = with_host(t, i, host._replace(files=files, head=token(pg)))
        yield Step(f"host {i} deletes the receipts that are in the ledger", 0, t)
