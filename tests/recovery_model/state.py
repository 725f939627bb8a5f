"""The state of the whole system, and the small changes that several steps share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeVar

from tests.recovery_model.rules import BOUNDS, on

CODES: Final = ("K1", "K2", "K3", "K4")
BOUND: Final = 2
"""Redemptions of the partition that may be unrecorded."""
MOST_CALLS: Final = {"a1": 2, "a2": 1, "b1": 2}
"""How often a caller uses each key."""

T = TypeVar("T")
Token = tuple[int, int]
"""The token of a commit: (line, number), where a line is one unbroken history of Postgres."""


class Fact(NamedTuple):
    """A redemption: in the stream, in a journal, in the ledger."""

    epoch: int
    serial: int
    seq: int
    code: str
    key: str


class Data(NamedTuple):
    """The data set of a Redis server. `epoch` negative: fenced; `last`: the last blessed one."""

    run: int
    epoch: int
    last: int
    serial: int
    beat: int
    head: Token
    issued: int
    pool: tuple[str, ...]
    stream: tuple[Fact, ...]
    kept: frozenset[Fact]


class Flight(NamedTuple):
    """A reply that was received and is not answered yet; `held`: its receipt is in the journal."""

    held: bool
    event: Fact
    granted: bool


class Proc(NamedTuple):
    """An API process. `reg`: the epoch it is registered for; `link`: its server; `cut`: it does not reach Postgres."""

    up: bool
    pid: int
    epoch: int
    run: int | None
    reg: int
    link: int
    seen: int
    beat: int
    head: Token
    cut: bool
    flight: Flight | None


class File(NamedTuple):
    """A journal: of which process, written in which boot of the host."""

    pid: int
    boot: int
    receipts: tuple[Fact, ...]


class Host(NamedTuple):
    boot: int
    files: tuple[File, ...]
    head: Token


class Registration(NamedTuple):
    """`word`: -1 while it is not settled, then the highest serial that the process was reported."""

    pid: int
    host: int
    epoch: int
    word: int


class Plan(NamedTuple):
    """What a recovery has decided: restart, exact or bounded."""

    kind: str
    issued: int
    serial: int


class Quarantined(NamedTuple):
    """A seq that was lost with the epochs `after` < e <= `to`."""

    after: int
    to: int
    seq: int


class Base(NamedTuple):
    """The serial that the epoch behind `epoch` began with."""

    epoch: int
    serial: int


class Postgres(NamedTuple):
    epoch: int
    run: int | None
    last: int
    plan: Plan | None
    ledger: frozenset[Fact]
    quarantined: frozenset[Quarantined]
    void: frozenset[int]
    bases: tuple[Base, ...]
    codes: tuple[str, ...]
    registrations: frozenset[Registration]
    late: frozenset[Fact]
    line: int
    commits: int
    heads: tuple[Token, ...]
    beat: int
    since: int
    incident: bool


class RecoveryRun(NamedTuple):
    stage: str
    epoch: int
    run: int


class WorkInHand(NamedTuple):
    """What the worker has in hand."""

    run: int
    epoch: int
    event: Fact
    head: Token
    done: bool


class State(NamedTuple):
    """`lossy`: a journal was lost; `rolled`: Postgres went back; `inexact`: a recovery was bounded."""

    main: Data
    old: Data | None
    snap: Data | None
    pg: Postgres
    pg_snap: Postgres | None
    procs: tuple[Proc, ...]
    hosts: tuple[Host, ...]
    recovery: RecoveryRun | None
    work: WorkInHand | None
    sent: tuple[tuple[str, int], ...]
    answers: frozenset[tuple[str, str]]
    faults: int
    inexact: bool
    lossy: bool
    rolled: bool


class Step(NamedTuple):
    """What happens next, how many faults it costs, and the state behind it."""

    label: str
    cost: int
    state: State


Steps = Iterator[Step]


def start() -> State:
    data = Data(1, 1, 1, 0, 0, (0, 0), 0, CODES, (), frozenset())
    none: frozenset[Fact] = frozenset()
    pg = Postgres(
        1, 1, 1, None, none, frozenset(), frozenset(), (), CODES, frozenset(), none, 0, 0, ((0, 0),), 0, 0, False
    )
    procs = tuple(Proc(True, 10 * (i + 1), 1, None, 0, 0, 0, 0, (0, 0), False, None) for i in (0, 1))
    hosts = (Host(0, (), (0, 0)), Host(0, (), (0, 0)))
    sent = tuple((key, 0) for key in MOST_CALLS)
    return State(data, None, None, pg, None, procs, hosts, None, None, sent, frozenset(), 0, False, False, False)


def put(items: tuple[T, ...], i: int, value: T) -> tuple[T, ...]:
    return (*items[:i], value, *items[i + 1 :])


def with_proc(s: State, i: int, proc: Proc) -> State:
    return s._replace(procs=put(s.procs, i, proc))


def with_host(s: State, i: int, host: Host) -> State:
    return s._replace(hosts=put(s.hosts, i, host))


def with_pg(s: State, pg: Postgres) -> State:
    return s._replace(pg=pg)


def incident(s: State) -> State:
    return s._replace(pg=s.pg._replace(incident=True))


def server(s: State, run: int | None) -> Data | None:
    if s.main.run == run:
        return s.main
    return s.old if s.old is not None and s.old.run == run else None


def with_server(s: State, data: Data) -> State:
    return s._replace(main=data) if s.main.run == data.run else s._replace(old=data)


def commit(pg: Postgres) -> Postgres:
    """Commit once more; the commit has a token."""
    if "pg" not in BOUNDS.menu:
        return pg
    number = pg.commits + 1
    return pg._replace(commits=number, heads=tuple(sorted((dict(pg.heads) | {pg.line: number}).items())))


def token(pg: Postgres) -> Token:
    return (pg.line, pg.commits)


def knows(pg: Postgres, head: Token) -> bool:
    if on("lineage"):
        return dict(pg.heads).get(head[0], -1) >= head[1]
    # A number in the place of the token: a Postgres that went back may catch up with it.
    return pg.commits >= head[1]


def is_void(pg: Postgres, event: Fact) -> bool:
    above = any(event.epoch <= base.epoch and event.serial > base.serial for base in pg.bases)
    return on("void") and (event.seq in pg.void or above)


def record(pg: Postgres, event: Fact) -> Postgres:
    """INSERT … ON CONFLICT DO NOTHING, with what it means for quarantine and void."""
    if is_void(pg, event) or any(row.seq == event.seq for row in pg.ledger):
        return pg
    late = pg.late
    decided = pg.plan is not None and pg.plan.kind != "restart"
    if (event.epoch <= (pg.last if pg.run else pg.last - 1) and event.epoch < pg.epoch) or decided:
        late = late | {event}
    quarantined = frozenset(q for q in pg.quarantined if q.seq != event.seq)
    return pg._replace(ledger=pg.ledger | {event}, late=late, quarantined=quarantined)


def accounted(pg: Postgres) -> set[int]:
    return {row.seq for row in pg.ledger} | {q.seq for q in pg.quarantined} | set(pg.void)


def reissue(pg: Postgres, seqs: Iterable[int]) -> Postgres:
    """Give what was answered to no caller a new seq at the tail; the old seq is void."""
    some = sorted(seqs)
    return pg._replace(codes=pg.codes + tuple(pg.codes[seq - 1] for seq in some), void=pg.void | frozenset(some))


def a_process_objects(s: State) -> bool:
    """Whether a living process that reaches Postgres knows of a commit that Postgres does not know.

    The wait for a heartbeat brings it out.
    """
    return any(
        p.up and not p.cut and not (knows(s.pg, p.head) and knows(s.pg, s.hosts[i].head)) for i, p in enumerate(s.procs)
    )


def may_fail(s: State, kind: str) -> bool:
    """Whether a fault of this kind may happen now.

    Not covered, for no process is left that knows: a Postgres that forgot a process which is not heard of, or whose
    host is lost.
    """
    if (kind == "host" and s.rolled) or (kind == "pg" and s.lossy):
        return False
    if kind == "api" and s.rolled and a_process_objects(s):
        return False
    return kind in BOUNDS.menu and s.faults < BOUNDS.faults
