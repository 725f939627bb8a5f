"""One gathered transaction: works are decided about one after the other, then everything is written at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from issuer.loyalty.account import AccountState
from issuer.loyalty.apply import apply
from issuer.loyalty.outcome import Applied, Refusal, RefusalCode, Transferred
from issuer.loyalty.reading import ReadAccounts, Reader
from issuer.loyalty.work import PointsOutcome, Work
from issuer.loyalty.writing import WriteConflictError, Writes
from issuer.storage.kept_answers import AnswerKey, KeptAnswer, find_answers, keep_answers
from issuer.storage.postgres import UNAVAILABLE, AnyConnection, PostgresUnavailableError

MAX_ATTEMPTS: Final = 5
"""A transaction is repeated when another one has committed the same order or key meanwhile. Each repeat sees that."""

Settled = PointsOutcome | Exception


async def run_transaction(connection: AnyConnection, reader: Reader, works: Sequence[Work]) -> list[Settled]:
    """Carry out the works in one transaction, and return the outcome or the error of each once it is committed.

    Works on one account are decided about in their order, each on what the one before has left. An error of one work
    changes nothing and is no error of the others. Raises WorksFailedError if it cannot be known of which work an error
    is: nothing was done. Raises errors that say that Postgres is unavailable; after one of the commit the outcome is
    unknown.
    """
    for _ in range(MAX_ATTEMPTS):
        try:
            async with connection.transaction():
                with _rolled_back():
                    return await _Transaction(connection, works).run(reader)
        except WriteConflictError:
            continue
        except WorksFailedError as failed:
            if len(works) == 1:
                return [failed.error]
            raise
        except _NothingDoneError as nothing:
            return [nothing.outcome]
    raise PostgresUnavailableError("other transactions have changed the same orders or keys again and again")


class WorksFailedError(Exception):
    """A transaction was rolled back for an error of one of its works: of its act, or of a value that is refused."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _NothingDoneError(Exception):
    """The work of an act changes nothing: what the act has begun is rolled back."""

    def __init__(self, outcome: PointsOutcome) -> None:
        super().__init__("nothing is done")
        self.outcome = outcome


@contextmanager
def _rolled_back() -> Iterator[None]:
    """Name the errors of what is done before the commit, so that nothing was done. The same works would fail again."""
    try:
        yield
    except (*UNAVAILABLE, PostgresUnavailableError, WriteConflictError, _NothingDoneError):
        raise
    except Exception as error:
        raise WorksFailedError(error) from error


@dataclass(slots=True)
class _Transaction:
    connection: AnyConnection
    works: Sequence[Work]
    writes: Writes = field(default_factory=Writes)
    states: dict[int, AccountState] = field(default_factory=dict)
    answers: dict[AnswerKey, KeptAnswer] = field(default_factory=dict)

    async def run(self, reader: Reader) -> list[Settled]:
        alone = self.works[0] if len(self.works) == 1 and self.works[0].is_alone else None
        if alone is not None:
            await alone.act.begin(self.connection)
        read = await reader.read(self.connection, self.works)
        self.states = dict(read.states)
        # Behind the locks: the answer of a repeat is found once its first request has committed.
        found = await self._find_answers()
        settled = [await self._settle(work, read, found) for work in self.works]
        if alone is not None:
            return [await self._finish(alone, settled[0], read)]
        await self._write(read)
        return settled

    async def _finish(self, alone: Work, settled: Settled, read: ReadAccounts) -> PointsOutcome:
        """Write what a work and its act have done, or raise: an act is carried out whole or not at all."""
        if isinstance(settled, Exception):
            raise settled
        if isinstance(settled, Refusal) or alone.dry_run:
            raise _NothingDoneError(settled)
        await self._write(read)
        await alone.act.keep(self.connection, settled)
        return settled

    async def _write(self, read: ReadAccounts) -> None:
        for account_id, state in self.states.items():
            if state is not read.states[account_id]:
                self.writes.add_changes(read.states[account_id], state, read.programs[account_id])
        await self.writes.write(self.connection)
        if self.answers and not await keep_answers(self.connection, self.answers):
            raise WriteConflictError("kept_answers")

    async def _find_answers(self) -> Mapping[AnswerKey, KeptAnswer]:
        keys = [act.answer_key for work in self.works if (act := work.kept_act) is not None and act.answer_key]
        return await find_answers(self.connection, keys) if keys else {}

    async def _settle(self, work: Work, read: ReadAccounts, found: Mapping[AnswerKey, KeptAnswer]) -> Settled:
        """Decide about one work. Its changes count only if its answer can be kept."""
        try:
            act = work.kept_act
            key = None if act is None else act.answer_key
            if act is not None and key is not None and key in found:
                act.compare(found[key])
            outcome, states = self._decide(work, read)
            if isinstance(outcome, Refusal) or work.dry_run:
                return outcome
            if act is not None and key is not None:
                self.answers[key] = await act.render(outcome)
        except Exception as error:
            return error
        self._adopt(work, read, states, outcome)
        return outcome

    def _decide(self, work: Work, read: ReadAccounts) -> tuple[PointsOutcome, dict[int, AccountState]]:
        """Return the outcome of a work and the new states of its accounts."""
        if any(account_id not in self.states for account_id in work.account_ids):
            return Refusal(RefusalCode.ACCOUNT_NOT_FOUND), {}
        account_id, target_id, program = work.account_id, work.target_id, read.programs[work.account_id]
        outcome = apply(self.states[account_id], work.operation, read.now, program)
        if isinstance(outcome, Refusal):
            return outcome, {}
        if target_id is None:
            return outcome, {account_id: outcome.state}
        if target_id == account_id or read.programs[target_id].id != program.id:
            return Refusal(RefusalCode.OTHER_PROGRAM), {}
        assert outcome.moved is not None, "only a transfer has a target"
        received = apply(self.states[target_id], outcome.moved, read.now, program)
        if isinstance(received, Refusal):
            return received, {}
        return Transferred(outcome, received), {account_id: outcome.state, target_id: received.state}

    def _adopt(
        self, work: Work, read: ReadAccounts, states: Mapping[int, AccountState], outcome: Applied | Transferred
    ) -> None:
        """Make the new states those that the next work is decided on, and remember what is to be written."""
        self.states.update(states)
        both = (outcome.source, outcome.target) if isinstance(outcome, Transferred) else (outcome,)
        for account_id, applied in zip(work.account_ids, both, strict=True):
            if applied.replayed:
                continue
            for entry in applied.entries:
                self.writes.add_entry(account_id, entry, work.actor)
        if not both[0].replayed:
            self.writes.add_move(work, read.programs[work.account_id], both[0].state)
