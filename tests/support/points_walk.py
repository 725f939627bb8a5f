"""Random operations on some accounts of a program, carried out by the rules and by the model, and compared."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

from issuer.loyalty.account import (
    AccountState,
    EntryId,
    EntryOp,
    Hold,
    HoldState,
    MoveState,
    Order,
    OrderKey,
    PointsEntry,
)
from issuer.loyalty.apply import apply
from issuer.loyalty.operations import (
    Adjust,
    CaptureHold,
    Earn,
    MoveKind,
    NewMove,
    Operation,
    OrderRef,
    PlaceHold,
    ReleaseHold,
    Spend,
    Sweep,
    TakeBack,
    TransferOut,
    Undo,
)
from issuer.loyalty.outcome import Applied, Refusal
from issuer.loyalty.program import Program, ProgramState
from issuer.loyalty.terms import EarnRate, Expiry, ExpiryRule, OnRefund, PointsLimits, Terms, TermsError, parse_terms
from tests.support.points_model import Conditions, ModelAccount, PointsModel

ZONES = ("UTC", "Europe/London", "America/Sao_Paulo", "Asia/Kathmandu", "America/Havana")
ACCOUNTS = (1, 2, 3)
REVERSALS = (EntryOp.UNDO, EntryOp.TAKE_BACK, EntryOp.TAKE_BACK_PENDING)
T = TypeVar("T")
Step = tuple[int, Operation, int | None]
"""An account, an operation, and the target of a transfer."""


def random_terms(draw: random.Random) -> Terms:
    """Return terms as a program may have them."""
    while True:
        with suppress(TermsError):
            return parse_terms(_any_terms(draw).to_json(), "points")


def _any_terms(draw: random.Random) -> Terms:
    def maybe(least: int, most: int) -> int | None:
        return draw.randint(least, most) if draw.random() < 0.2 else None

    rule = draw.choice(list(ExpiryRule))
    count = draw.randint(int(rule is not ExpiryRule.END_OF_YEAR), 3)
    return Terms(
        EarnRate(draw.randint(1, 3), draw.choice((7, 10, 33)), "EUR"),
        draw.choice((0, 0, 1, 14)),
        Expiry(rule, count),
        draw.choice(list(OnRefund)),
        PointsLimits(maybe(5, 20), maybe(10, 40), maybe(5, 20), maybe(10, 40)),
        draw.choice((1, 1, 1, 2)),
        maybe(20, 80),
    )


@dataclass
class Choice:
    """Draws operations. It remembers what earlier ones have named, so that later ones name it again."""

    draw: random.Random
    hold_ends: Callable[[], datetime]
    holds: list[tuple[int, UUID]] = field(default_factory=list)
    orders: list[OrderRef] = field(default_factory=list)
    sold: list[tuple[int, OrderRef]] = field(default_factory=list)
    purchases: list[tuple[int, tuple[int, UUID]]] = field(default_factory=list)

    def step(self, lines: Callable[[int], int]) -> Step:
        """Return the next step. `lines`: how many entries an account has."""
        account, draw = self.draw.choice(ACCOUNTS), self.draw
        kind = draw.choices(
            ("earn", "order", "spend", "hold", "settle", "refund", "undo", "adjust", "transfer", "merge", "sweep"),
            (10, 16, 16, 8, 9, 12, 14, 7, 5, 0.3, 4),
        )[0]
        if kind == "transfer" or kind == "merge":
            target = draw.choice([other for other in ACCOUNTS if other != account])
            move = NewMove(self.uuid(), MoveKind.MERGE if kind == "merge" else MoveKind.TRANSFER)
            return account, TransferOut(self.points(), move, kind == "merge"), target
        return account, getattr(self, f"_{kind}")(account, lines), None

    def _one_of(self, account: int, known: list[tuple[int, T]], otherwise: T) -> T:
        """Return one of the latest of the account, at times of another one."""
        own = [one for owner, one in known if owner == account or self.draw.random() < 0.1]
        return self.draw.choice(own[-6:]) if own else otherwise

    def points(self) -> int:
        return self.draw.randint(1, 12)

    def uuid(self) -> UUID:
        return UUID(int=self.draw.getrandbits(128))

    def _earn(self, account: int, lines: Callable[[int], int]) -> Operation:
        return Earn(self.points())

    def _order(self, account: int, lines: Callable[[int], int]) -> Operation:
        if self.orders and self.draw.random() < 0.15:
            order = self.draw.choice(self.orders)
            if self.draw.random() < 0.3:
                order = replace(order, amount_minor=order.amount_minor + 1)
        else:
            order = OrderRef("shop", str(len(self.orders)), self.draw.choice((0, 1, 9, 10, 50, 99, 100, 101, 120)))
            self.orders.append(order)
            self.sold.append((account, order))
        return Earn(self.points() if self.draw.random() < 0.1 else None, order)

    def _spend(self, account: int, lines: Callable[[int], int]) -> Operation:
        if self.draw.random() < 0.8:
            return Spend(self.points())
        move = NewMove(self.uuid(), MoveKind.PURCHASE, self.uuid())
        self.purchases.append((account, (lines(account), move.id)))
        return Spend(self.points(), move=move)

    def _hold(self, account: int, lines: Callable[[int], int]) -> Operation:
        # Ids of holds are the server's: no other account has the same.
        own = [hold for owner, hold in self.holds if owner == account]
        hold = self.draw.choice(own) if own and self.draw.random() < 0.05 else self.uuid()
        self.holds.append((account, hold))
        return PlaceHold(hold, self.points(), self.hold_ends())

    def _settle(self, account: int, lines: Callable[[int], int]) -> Operation:
        hold = self._one_of(account, self.holds, self.uuid())
        if self.draw.random() < 0.4:
            return ReleaseHold(hold)
        return CaptureHold(hold, self.points() if self.draw.random() < 0.5 else None)

    def _refund(self, account: int, lines: Callable[[int], int]) -> Operation:
        order = self._one_of(account, self.sold, OrderRef("shop", "none"))
        return TakeBack(order, self.draw.choice((None, 0, 1, 3, 10, 40, 1_000)))

    def _undo(self, account: int, lines: Callable[[int], int]) -> Operation:
        if self.purchases and self.draw.random() < 0.3:
            before, move_id = self._one_of(account, self.purchases, (0, self.uuid()))
            return Undo(before + self.draw.choice((1, 1, 1, 2)), move_id=move_id)
        latest = lines(account) + 1
        return Undo(self.draw.randint(max(1, latest - 12), latest), self.draw.choice((None, 1, 2, 5)))

    def _adjust(self, account: int, lines: Callable[[int], int]) -> Operation:
        points = self.points() * self.draw.choice((1, -1))
        return Adjust(points, self.draw.choice(("goodwill", "error", " ")), self.draw.random() < 0.5)

    def _sweep(self, account: int, lines: Callable[[int], int]) -> Operation:
        return Sweep()


class PointsWalk:
    """Accounts whose state is kept as the tables keep it, beside the model's. Any difference is an AssertionError."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.now = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=self.draw.randint(0, 2_000_000))
        self.program = Program(
            UUID(int=1), UUID(int=2), "Club", "points", self.draw.choice(ZONES), ProgramState.ACTIVE, 1,
            random_terms(self.draw), self.now,
        )  # fmt: skip
        self.choice = Choice(self.draw, self.hold_ends)
        self.model = PointsModel()
        self.states = {number: AccountState(number) for number in ACCOUNTS}
        self.entries: dict[EntryId, PointsEntry] = {}
        self.reversed: Counter[EntryId] = Counter()
        self.orders: dict[OrderKey, Order] = {}
        self.settled: dict[UUID, tuple[int, Hold]] = {}
        self.moves: dict[UUID, tuple[int, MoveState]] = {}
        self.model.accounts = {number: ModelAccount(number) for number in ACCOUNTS}
        self.codes: Counter[str] = Counter()

    def hold_ends(self) -> datetime:
        return self.now + timedelta(seconds=self.draw.choice((0, 60, 3_600, 86_400, 2_000_000)))

    def step(self) -> None:
        self.change_program()
        self.move_clock()
        account, operation, target = self.choice.step(lambda number: self.states[number].seq)
        conditions = Conditions(self.program.terms, self.program.timezone, self.program.is_active)
        if target is None:
            expected = self.model.ask(account, operation, self.now, conditions)
            found = self.apply(account, operation)
        else:
            assert isinstance(operation, TransferOut)
            expected = self.model.move(account, target, operation, self.now, conditions)
            found = self.transfer(account, target, operation)
        self.codes[found] += 1
        assert found == expected, (operation, found, expected)
        for number in {account, target or account}:
            self.compare(number)

    def change_program(self) -> None:
        chance = self.draw.random()
        if chance < 0.01:
            self.program = replace(
                self.program, terms=random_terms(self.draw), terms_number=self.program.terms_number + 1
            )
        elif chance < 0.02:
            state = ProgramState.PAUSED if self.program.is_active else ProgramState.ACTIVE
            self.program = replace(self.program, state=state)
        elif chance < 0.06 and not self.program.is_active:
            self.program = replace(self.program, state=ProgramState.ACTIVE)
        elif chance < 0.065:
            self.program = replace(self.program, timezone=self.draw.choice(ZONES))

    def move_clock(self) -> None:
        chance = self.draw.random()
        if chance < 0.4:
            self.now += timedelta(seconds=self.draw.randint(0, 100))
        elif chance < 0.5:
            self.now += timedelta(hours=self.draw.randint(0, 60))
        elif chance < 0.53:
            self.now += timedelta(days=self.draw.randint(1, 50))
        elif chance < 0.63:
            due = self.states[self.draw.choice(ACCOUNTS)].due_at
            if due - self.now < timedelta(days=400):
                self.now = due + timedelta(microseconds=self.draw.choice((-1, 0, 0, 1)))
        elif chance < 0.65:
            self.now -= timedelta(minutes=self.draw.randint(0, 100))

    def named(self, number: int, operation: Operation) -> AccountState:
        """Return the state with what the operation names, as it is read from the tables."""
        state = self.states[number]
        keys: set[OrderKey] = set()
        entries: set[EntryId] = set()
        if isinstance(operation, Earn | TakeBack) and operation.order is not None:
            keys.add((operation.order.source, operation.order.order_id))
        if isinstance(operation, Undo):
            entries.add(EntryId(number, operation.entry_seq))
            entry = self.entries.get(EntryId(number, operation.entry_seq))
            keys |= set() if entry is None or entry.order is None else {entry.order}
        orders = {key: self.orders[key] for key in keys if key in self.orders}
        entries |= {order.earned for order in orders.values()}
        moves = {}
        if isinstance(operation, Undo) and operation.move_id is not None:
            owner, move = self.moves.get(operation.move_id, (0, MoveState.DONE))
            moves = {operation.move_id: move} if owner == number else {}
        holds = state.holds
        if isinstance(operation, PlaceHold | CaptureHold | ReleaseHold):
            owner, hold = self.settled.get(operation.hold_id, (0, None))
            holds = holds if hold is None or owner != number else (*holds, hold)
        return state._replace(
            holds=holds,
            orders=orders,
            entries={one: self.entries[one] for one in entries if one in self.entries},
            reversed={one: self.reversed[one] for one in entries},
            moves=moves,
        )

    def apply(self, number: int, operation: Operation) -> str:
        outcome = apply(self.named(number, operation), operation, self.now, self.program)
        if isinstance(outcome, Refusal):
            return str(outcome.code)
        if outcome.replayed:
            return "replayed"
        self.adopt(number, outcome)
        return "ok"

    def transfer(self, source: int, target: int, operation: TransferOut) -> str:
        sent = apply(self.named(source, operation), operation, self.now, self.program)
        if isinstance(sent, Refusal):
            return str(sent.code)
        assert sent.moved is not None
        received = apply(self.named(target, sent.moved), sent.moved, self.now, self.program)
        if isinstance(received, Refusal):
            return str(received.code)
        self.adopt(source, sent)
        self.adopt(target, received)
        if operation.merge:
            for key, order in self.orders.items():
                if order.account_id == source:
                    self.orders[key] = replace(order, account_id=target)
        return "ok"

    def adopt(self, number: int, applied: Applied) -> None:
        for entry in applied.entries:
            self.entries[EntryId(number, entry.seq)] = entry
            if entry.reverses_seq is not None and entry.op in REVERSALS:
                self.reversed[EntryId(number, entry.reverses_seq)] += entry.points
        state = applied.state
        self.orders.update(state.orders)
        self.moves.update({move_id: (number, move) for move_id, move in state.moves.items()})
        for hold in state.holds:
            if hold.state is not HoldState.OPEN:
                self.settled[hold.id] = number, hold
        opened = tuple(hold for hold in state.holds if hold.state is HoldState.OPEN)
        self.states[number] = state._replace(holds=opened, orders={}, entries={}, reversed={}, moves={})

    def compare(self, number: int) -> None:
        """Compare an account with the model's, and look at the rules that hold after every step."""
        state, model = self.states[number], self.model.accounts[number]
        figures = (state.available, state.held, state.pending, state.debt, state.lifetime)
        assert figures == model.figures(), (figures, model.figures())
        assert min(figures) >= 0
        assert state.available == sum(bucket.points for bucket in state.buckets)
        assert state.held == sum(hold.points for hold in state.holds)
        assert state.pending == sum(one.points for one in state.pendings)
        assert not (state.debt and state.available)
        assert [bucket.expires_at for bucket in state.buckets] == sorted(set(model.tokens))
        assert [bucket.points for bucket in state.buckets] == [
            model.tokens.count(bucket.expires_at) for bucket in state.buckets
        ]
        assert state.seq == len(model.lines)
        assert (state.day, state.day_earned, state.day_spent) == (model.day, model.earned_today, model.spent_today)
        for seq in range(max(1, state.seq - 5), state.seq + 1):
            entry = self.entries[EntryId(number, seq)]
            assert (entry.op, entry.points) == model.lines[seq - 1]


def walk(seeds: range, steps: int) -> Counter[str]:
    """Walk in a world of its own for each seed. Return how often each outcome occurred."""
    codes: Counter[str] = Counter()
    for seed in seeds:
        world = PointsWalk(seed)
        for step in range(steps):
            try:
                world.step()
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, step {step}: {error}") from error
        codes += world.codes
    return codes
