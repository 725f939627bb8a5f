"""A second implementation of the rules of points, written from the specification alone.

It counts single points: each is a token with an instant of expiry, in plain lists. Where the ledger does what is due at
the next touch, this model lets the clock stop at every instant at which something is due. It uses the ledger's values
(operations and terms) and none of its functions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from math import floor
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from issuer.loyalty import operations as ops
from issuer.loyalty.terms import ExpiryRule, OnRefund, Terms

NEVER = datetime(9999, 12, 30, tzinfo=UTC)
MOST = 10**12
MOST_HOLDS = 100


@dataclass(frozen=True)
class Conditions:
    """What a program says at the moment of an operation."""

    terms: Terms
    zone: str
    is_active: bool = True


@lru_cache(maxsize=100_000)
def day_ends(day: date, zone: str) -> datetime:
    """The first minute whose local date is later, found by bisection: nothing is known about offsets."""
    if day.year >= 9999:
        return NEVER
    place = ZoneInfo(zone)
    low = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=26)
    before, after = 0, 80 * 60
    while after - before > 1:
        middle = (before + after) // 2
        if (low + timedelta(minutes=middle)).astimezone(place).date() > day:
            after = middle
        else:
            before = middle
    return low + timedelta(minutes=after)


def months_later(day: date, months: int) -> date:
    year, month = day.year, day.month
    for _ in range(months):
        month += 1
        if month == 13:
            year, month = year + 1, 1
    for number in (day.day, 30, 29, 28):
        if number > day.day:
            continue
        try:
            return date(year, month, number)
        except ValueError:
            continue
    raise AssertionError


def day_of(now: datetime, zone: str) -> date:
    return now.astimezone(ZoneInfo(zone)).date()


@dataclass
class Reservation:
    tokens: list[datetime]
    ends: datetime
    placed: int
    state: str = "open"


@dataclass
class Maturing:
    """Pending points: where they were earned, one expiry for all, and when they become available."""

    earned: tuple[int, int]
    number: int
    ready: datetime
    expires: datetime


@dataclass
class Sale:
    amount: int
    points: int
    owner: int
    earned: tuple[int, int]
    clamp: bool
    refunded: int = 0
    taken: int = 0


@dataclass
class Debit:
    """A spend or capture: its tokens in the order in which they were taken; `restored` of them were undone."""

    tokens: list[datetime]
    day_at: datetime
    move: UUID | None
    restored: int = 0


@dataclass
class Gift:
    """An earn without an order."""

    points: int
    at: datetime
    taken: int = 0


class No(Exception):
    """The operation is refused."""


@dataclass
class ModelAccount:
    number: int
    tokens: list[datetime] = field(default_factory=list)
    debt: int = 0
    lifetime: int = 0
    waiting: list[Maturing] = field(default_factory=list)
    reservations: dict[UUID, Reservation] = field(default_factory=dict)
    debits: dict[int, Debit] = field(default_factory=dict)
    gifts: dict[int, Gift] = field(default_factory=dict)
    order_earns: dict[int, tuple[str, str]] = field(default_factory=dict)
    moves: dict[UUID, str] = field(default_factory=dict)
    lines: list[tuple[str, int]] = field(default_factory=list)
    times: list[datetime] = field(default_factory=list)
    clock: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    day: date = date(1970, 1, 1)
    earned_today: int = 0
    spent_today: int = 0
    nameable: int = 0
    moved_away: int = 0

    def copy(self) -> ModelAccount:
        return replace(
            self,
            tokens=list(self.tokens),
            waiting=[replace(one) for one in self.waiting],
            reservations={key: replace(one) for key, one in self.reservations.items()},
            debits={key: replace(one) for key, one in self.debits.items()},
            gifts={key: replace(one) for key, one in self.gifts.items()},
            order_earns=dict(self.order_earns),
            moves=dict(self.moves),
            lines=list(self.lines),
            times=list(self.times),
        )

    @property
    def held(self) -> int:
        return sum(len(one.tokens) for one in self.reservations.values() if one.state == "open")

    @property
    def pending(self) -> int:
        return sum(one.number for one in self.waiting)

    def figures(self) -> tuple[int, int, int, int, int]:
        return len(self.tokens), self.held, self.pending, self.debt, self.lifetime

    def say(self, op: str, points: int) -> int:
        self.lines.append((op, points))
        self.times.append(self.clock)
        return len(self.lines)

    def earned_at(self, line: int) -> datetime:
        return self.times[line - 1]

    # Points come and go one by one.

    def give(self, tokens: list[datetime]) -> None:
        for token in sorted(tokens):
            if self.debt:
                self.debt -= 1
            else:
                self.tokens.append(token)
        self.tokens.sort()

    def remove(self, number: int) -> list[datetime]:
        assert number <= len(self.tokens)
        gone, self.tokens = self.tokens[:number], self.tokens[number:]
        return gone

    def owe(self, number: int) -> None:
        for _ in range(number):
            if self.tokens:
                self.tokens.pop(0)
            else:
                self.debt += 1

    # Time.

    def advance(self, now: datetime, conditions: Conditions) -> None:
        self.clock = max(self.clock, now)
        while True:
            ends = [one.ends for one in self.reservations.values() if one.state == "open"]
            instants = ends + [one.ready for one in self.waiting] + self.tokens
            instant = min(instants, default=NEVER)
            if instant > self.clock:
                break
            self.stop_at(instant)
        today = day_of(self.clock, conditions.zone)
        if today > self.day:
            self.day, self.earned_today, self.spent_today = today, 0, 0

    def stop_at(self, instant: datetime) -> None:
        """Do one thing that is due at this instant: holds first, then pending points, then expiry."""
        ending = [one for one in self.reservations.values() if one.state == "open" and one.ends == instant]
        ready = [one for one in self.waiting if one.ready == instant]
        if ending:
            first = min(ending, key=lambda one: one.placed)
            first.state = "expired"
            self.give(first.tokens)
            self.say("hold_expired", len(first.tokens))
        elif ready:
            one = min(ready, key=lambda one: one.earned)
            self.waiting.remove(one)
            self.give([one.expires] * one.number)
            self.say("mature", one.number)
        else:
            gone = self.tokens.count(instant)
            self.tokens = [token for token in self.tokens if token != instant]
            self.say("expire", gone)


class PointsModel:
    """Some accounts of one program."""

    def __init__(self) -> None:
        self.accounts: dict[int, ModelAccount] = {}
        self.sales: dict[tuple[str, str], Sale] = {}

    def ask(self, number: int, operation: ops.Operation, now: datetime, conditions: Conditions) -> str:
        """Carry out an operation. Return `ok`, `replayed` or the code of the refusal, after which all is as before."""
        kept = self.copy((number,))
        try:
            return self.do(self.accounts[number], operation, now, conditions)
        except No as no:
            self.put_back(kept)
            return str(no)

    def move(self, source: int, target: int, operation: ops.TransferOut, now: datetime, conditions: Conditions) -> str:
        kept = self.copy((source, target))
        try:
            self.transfer(self.accounts[source], self.accounts[target], operation, now, conditions)
        except No as no:
            self.put_back(kept)
            return str(no)
        return "ok"

    def copy(self, numbers: tuple[int, ...]) -> PointsModel:
        kept = PointsModel()
        kept.accounts = {number: self.accounts[number].copy() for number in numbers}
        kept.sales = {key: replace(sale) for key, sale in self.sales.items()}
        return kept

    def put_back(self, kept: PointsModel) -> None:
        self.accounts.update(kept.accounts)
        self.sales = kept.sales

    def do(self, account: ModelAccount, operation: Any, now: datetime, conditions: Conditions) -> str:
        name = type(operation).__name__
        if name == "Earn" and operation.order is not None:
            sale = self.sales.get((operation.order.source, operation.order.order_id))
            if sale is not None:
                same = sale.owner == account.number and sale.amount == operation.order.amount_minor
                if not same:
                    raise No("order_differs")
                return "replayed"
        # A caller can name only what is in the ledger: not what this operation finds to be due.
        account.nameable = len(account.lines)
        account.advance(now, conditions)
        getattr(self, name)(account, operation, conditions)
        # Time stands still, but what came back may be too late.
        account.advance(account.clock, conditions)
        available, held, pending, debt, lifetime = account.figures()
        if available + held + pending > MOST or debt > MOST or lifetime > MOST:
            raise No("limit_reached")
        return "ok"

    def Earn(self, account: ModelAccount, operation: ops.Earn, conditions: Conditions) -> None:
        terms, limits, order = conditions.terms, conditions.terms.limits, operation.order
        if not conditions.is_active:
            raise No("program_paused")
        points = operation.points
        if points is None:
            if order is None or terms.earn is None:
                raise No("no_earn_rate")
            points = floor(Fraction(order.amount_minor, terms.earn.per_minor) * terms.earn.points)
        available, held, pending, debt, lifetime = account.figures()
        bounds = [MOST - available - held - pending, MOST - lifetime]
        if terms.max_balance is not None:
            bounds.append(terms.max_balance - (available + held + pending - debt))
        if limits.earn_entry is not None:
            bounds.append(limits.earn_entry)
        if limits.earn_day is not None:
            bounds.append(limits.earn_day - account.earned_today)
        allowed = max(0, min(bounds))
        if points > allowed:
            if order is None:
                raise No("limit_reached")
            points = allowed
        today = day_of(account.clock, conditions.zone)
        expires = self.expires(account.clock, conditions)
        earned = (account.number, len(account.lines) + 1)
        account.lifetime += points
        account.earned_today += points
        if terms.pending_days > 0 and points > 0:
            ready = day_ends(account.day + timedelta(days=terms.pending_days), conditions.zone)
            account.waiting.append(Maturing(earned, points, ready, expires))
            account.say("earn_pending", points)
        else:
            account.give([expires] * points)
            account.say("earn", points)
        assert today <= account.day
        if order is None:
            account.gifts[earned[1]] = Gift(points, account.clock)
        else:
            key = (order.source, order.order_id)
            account.order_earns[earned[1]] = key
            clamp = terms.on_refund is OnRefund.CLAMP
            self.sales[key] = Sale(order.amount_minor, points, account.number, earned, clamp)

    def expires(self, now: datetime, conditions: Conditions) -> datetime:
        rule, count = conditions.terms.expiry.rule, conditions.terms.expiry.count
        today = day_of(now, conditions.zone)
        if rule is ExpiryRule.DAYS:
            return day_ends(today + timedelta(days=count), conditions.zone)
        if rule is ExpiryRule.MONTHS:
            return day_ends(months_later(today, count), conditions.zone)
        if rule is ExpiryRule.END_OF_YEAR:
            return day_ends(date(today.year + count, 12, 31), conditions.zone)
        return NEVER

    def may_debit(self, account: ModelAccount, points: int, conditions: Conditions) -> None:
        terms, limits = conditions.terms, conditions.terms.limits
        if not conditions.is_active:
            raise No("program_paused")
        if account.debt > 0 or len(account.tokens) < points:
            raise No("insufficient_points")
        if points < terms.min_spend:
            raise No("below_minimum")
        if limits.spend_entry is not None and points > limits.spend_entry:
            raise No("limit_reached")
        if limits.spend_day is not None and account.spent_today + account.held + points > limits.spend_day:
            raise No("limit_reached")

    def Spend(self, account: ModelAccount, operation: ops.Spend, conditions: Conditions) -> None:
        self.may_debit(account, operation.points, conditions)
        tokens = account.remove(operation.points)
        account.spent_today += operation.points
        move = None
        if operation.move is not None:
            move = operation.move.id
            account.moves[move] = "debited"
        line = account.say("spend", operation.points)
        account.debits[line] = Debit(tokens, account.clock, move)

    def PlaceHold(self, account: ModelAccount, operation: ops.PlaceHold, conditions: Conditions) -> None:
        if operation.hold_id in account.reservations:
            raise No("hold_settled")
        if operation.expires_at <= account.clock:
            raise No("hold_expired")
        self.may_debit(account, operation.points, conditions)
        if sum(one.state == "open" for one in account.reservations.values()) >= MOST_HOLDS:
            raise No("limit_reached")
        tokens = account.remove(operation.points)
        line = account.say("hold", operation.points)
        account.reservations[operation.hold_id] = Reservation(tokens, operation.expires_at, line)

    def reservation(self, account: ModelAccount, hold_id: UUID) -> Reservation:
        found = account.reservations.get(hold_id)
        if found is None:
            raise No("hold_not_found")
        if found.state == "expired":
            raise No("hold_expired")
        if found.state != "open":
            raise No("hold_settled")
        return found

    def CaptureHold(self, account: ModelAccount, operation: ops.CaptureHold, conditions: Conditions) -> None:
        found = self.reservation(account, operation.hold_id)
        points = operation.points or len(found.tokens)
        if points > len(found.tokens):
            raise No("hold_exceeded")
        found.state = "captured"
        account.spent_today += points
        line = account.say("capture", points)
        account.debits[line] = Debit(found.tokens[:points], account.clock, None)
        if found.tokens[points:]:
            account.give(found.tokens[points:])
            account.say("release", len(found.tokens) - points)

    def ReleaseHold(self, account: ModelAccount, operation: ops.ReleaseHold, conditions: Conditions) -> None:
        found = self.reservation(account, operation.hold_id)
        found.state = "released"
        account.give(found.tokens)
        account.say("release", len(found.tokens))

    def TakeBack(self, account: ModelAccount, operation: ops.TakeBack, conditions: Conditions) -> None:
        sale = self.sales.get((operation.order.source, operation.order.order_id))
        if sale is None or sale.owner != account.number:
            raise No("order_not_found")
        if sale.refunded == sale.amount:
            raise No("already_reversed")
        if operation.amount_refunded is None:
            sale.refunded = sale.amount
        else:
            sale.refunded = min(sale.amount, sale.refunded + operation.amount_refunded)
        kept = floor(Fraction(sale.points) * (sale.amount - sale.refunded) / sale.amount)
        points = max(0, sale.points - kept - sale.taken)
        sale.taken += points
        self.reclaim(account, sale.earned, points, sale.clamp, conditions)

    def reclaim(
        self, account: ModelAccount, earned: tuple[int, int], points: int, clamp: bool, conditions: Conditions
    ) -> None:
        at = self.accounts[earned[0]].earned_at(earned[1])
        if day_of(at, conditions.zone) == account.day:
            account.earned_today = max(0, account.earned_today - points)
        account.lifetime -= points
        still = next((one for one in account.waiting if one.earned == earned), None)
        first = 0
        while still is not None and first < points and still.number > 0:
            still.number -= 1
            first += 1
        if still is not None and still.number == 0:
            account.waiting.remove(still)
        if first:
            account.say("take_back_pending", first)
        if points > first or first == 0:
            before = account.debt
            account.owe(points - first)
            account.say("take_back", points - first)
            if clamp and account.debt > before:
                account.say("write_off", account.debt - before)
                account.debt = before

    def Undo(self, account: ModelAccount, operation: ops.Undo, conditions: Conditions) -> None:
        line = operation.entry_seq
        if line > account.nameable or line < 1:
            raise No("entry_not_found")
        if line in account.order_earns:
            if operation.points is not None:
                raise No("not_reversible")
            source, order_id = account.order_earns[line]
            self.TakeBack(account, ops.TakeBack(ops.OrderRef(source, order_id)), conditions)
        elif line <= account.moved_away:
            raise No("not_reversible")
        elif line in account.gifts:
            gift = account.gifts[line]
            if operation.move_id is not None:
                raise No("not_reversible")
            points = gift.points - gift.taken if operation.points is None else operation.points
            if gift.points == gift.taken or points > gift.points - gift.taken:
                raise No("already_reversed")
            gift.taken += points
            clamp = conditions.terms.on_refund is OnRefund.CLAMP
            self.reclaim(account, (account.number, line), points, clamp, conditions)
        elif line in account.debits:
            self.restore(account, account.debits[line], operation, conditions)
        else:
            raise No("not_reversible")

    def restore(self, account: ModelAccount, debit: Debit, operation: ops.Undo, conditions: Conditions) -> None:
        if debit.move != operation.move_id:
            raise No("not_reversible")
        left = len(debit.tokens) - debit.restored
        points = left if operation.points is None else operation.points
        if left == 0 or points > left:
            raise No("already_reversed")
        if debit.move is not None:
            if account.moves[debit.move] != "debited":
                raise No("move_settled")
            account.moves[debit.move] = "undone"
        # As if less had been taken: what was taken last comes back first.
        still_gone = debit.tokens[: len(debit.tokens) - debit.restored]
        back = [still_gone.pop() for _ in range(points)]
        debit.restored += points
        if day_of(debit.day_at, conditions.zone) == account.day:
            account.spent_today = max(0, account.spent_today - points)
        account.give(back)
        account.say("undo", points)

    def Adjust(self, account: ModelAccount, operation: ops.Adjust, conditions: Conditions) -> None:
        if operation.reason.strip() == "":
            raise No("reason_needed")
        if operation.points > 0:
            account.give([self.expires(account.clock, conditions)] * operation.points)
            account.say("adjust_up", operation.points)
        else:
            if not operation.allow_debt and len(account.tokens) < -operation.points:
                raise No("insufficient_points")
            account.owe(-operation.points)
            account.say("adjust_down", -operation.points)

    def Sweep(self, account: ModelAccount, operation: ops.Sweep, conditions: Conditions) -> None:
        pass

    def transfer(
        self,
        source: ModelAccount,
        target: ModelAccount,
        operation: ops.TransferOut,
        now: datetime,
        conditions: Conditions,
    ) -> None:
        source.advance(now, conditions)
        target.advance(now, conditions)
        if operation.merge:
            self.merge(source, target)
        else:
            if not conditions.is_active:
                raise No("program_paused")
            if source.debt > 0 or len(source.tokens) < operation.points:
                raise No("insufficient_points")
            most = conditions.terms.max_balance
            balance = len(target.tokens) + target.held + target.pending - target.debt
            if most is not None and balance + operation.points > most:
                raise No("limit_reached")
            target.give(source.remove(operation.points))
            source.say("transfer_out", operation.points)
            target.say("transfer_in", operation.points)
        source.advance(source.clock, conditions)
        target.advance(target.clock, conditions)

    def merge(self, source: ModelAccount, target: ModelAccount) -> None:
        if source.held:
            raise No("holds_open")
        for op, number in (
            ("lifetime", source.lifetime),
            ("pending", source.pending),
            ("transfer", len(source.tokens)),
            ("debt", source.debt),
        ):
            if number:
                source.say(f"{op}_out", number)
                target.say(f"{op}_in", number)
        source.moved_away = len(source.lines)
        target.lifetime, source.lifetime = target.lifetime + source.lifetime, 0
        target.waiting += source.waiting
        source.waiting = []
        target.give(source.tokens)
        source.tokens = []
        target.owe(source.debt)
        source.debt = 0
        for sale in self.sales.values():
            if sale.owner == source.number:
                sale.owner = target.number
