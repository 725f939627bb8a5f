"""The batch that a command adds codes to: an existing one, by id or name, or a new one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import typer

from issuer.batches.batch import NewBatch
from issuer.batches.rules import Rules, RulesError, parse_rules_text
from issuer.cli.options import instant_option, uuid_option
from issuer.cli.output import InputError

if TYPE_CHECKING:
    from datetime import datetime

    from issuer.batches.store import Batch
    from issuer.storage.stores import Stores

BATCH_NAME: Final[Any] = typer.Option(
    None, help="Name of a batch that has not expired; without such a batch a new one is created."
)
BATCH_ID: Final[Any] = typer.Option(None, help="Id of an existing batch.")
RULES: Final[Any] = typer.Option(
    None, help='Rules of a new batch as JSON, such as {"maxpercustomer":2,"timelimit":30}.'
)
STARTS_AT: Final[Any] = typer.Option(
    None, help="When a new batch starts: ISO 8601 with an offset, 2026-06-01T00:00:00+02:00."
)
ENDS_AT: Final[Any] = typer.Option(None, help="When a new batch ends, in the same format.")


@dataclass(frozen=True, slots=True)
class ChosenBatch:
    """The options that select the batch, checked as far as possible without the stores."""

    name: str | None
    id: UUID | None
    rules: Rules | None
    starts_at: datetime | None
    ends_at: datetime | None

    @classmethod
    def of(
        cls, *, name: str | None, id: str | None, rules: str | None, starts_at: str | None, ends_at: str | None
    ) -> ChosenBatch:
        """Parse the options. Raises InputError."""
        chosen = cls(
            name=name,
            id=uuid_option(id, "--batch-id"),
            rules=_parse_rules(rules),
            starts_at=instant_option(starts_at, "--starts-at"),
            ends_at=instant_option(ends_at, "--ends-at"),
        )
        if (name is None) == (id is None):
            raise InputError("give either --batch-name or --batch-id")
        return chosen

    async def find(self, stores: Stores) -> Batch | None:
        """Return the batch; None: it has to be created. Raises InputError."""
        from issuer.batches.store import BatchNotFoundError, find_batch

        try:
            if self.id is not None:
                return self._check_unchanged(await find_batch(stores.postgres, self.id))
        except BatchNotFoundError as error:
            raise InputError(f"no batch has the id {self.id}") from error
        assert self.name is not None
        existing = await _find_by_name(stores, self.name)
        return existing and self._check_unchanged(existing)

    def new_batch(self) -> NewBatch:
        """Return the values of the batch to create."""
        assert self.name is not None
        return NewBatch(self.name, self.rules or Rules(), self.starts_at, self.ends_at)

    async def find_or_create(self, stores: Stores, *, dry_run: bool = False) -> tuple[Batch | None, bool]:
        """Return the batch and whether it is new; None for a dry run with a new batch. Raises InputError."""
        from issuer.access.audit import cli_actor
        from issuer.batches.store import InvalidBatchError, find_or_create_batch

        existing = await self.find(stores)
        if existing is not None or dry_run:
            return existing, existing is None
        assert self.name is not None
        try:
            batch, new = await find_or_create_batch(
                stores,
                name=self.name,
                rules=self.rules or Rules(),
                starts_at=self.starts_at,
                ends_at=self.ends_at,
                actor=cli_actor(),
            )
        except InvalidBatchError as error:
            raise InputError(str(error)) from error
        return (batch if new else self._check_unchanged(batch)), new

    def _check_unchanged(self, batch: Batch) -> Batch:
        """Return the batch. Raise InputError for options that differ from it: adding codes changes nothing else."""
        if self.rules is not None and self.rules != batch.rules:
            raise InputError(
                f"batch {batch.id} has other rules. To change them: issuer batches set-rules {batch.id} '…'"
            )
        for option, value, current in (
            ("--starts-at", self.starts_at, batch.starts_at),
            ("--ends-at", self.ends_at, batch.ends_at),
        ):
            if value is not None and value != current:
                raise InputError(f"batch {batch.id} exists with another {option}; omit the option")
        return batch


async def end_if_empty(stores: Stores, batch: Batch | None, new: bool) -> None:
    """End a batch that was created for a refused load and is empty, so that a corrected command creates a new one."""
    from issuer.access.audit import cli_actor
    from issuer.batches.store import BatchChanges, change_batch
    from issuer.storage.redis_link import RedisUnavailableError

    if batch is None or not new:
        return
    if not await stores.postgres.fetchval("SELECT sum(total)::bigint FROM pools WHERE batch_id = $1", batch.id):
        with suppress(RedisUnavailableError):
            await change_batch(stores, batch.id, BatchChanges(expired=True), actor=cli_actor())


async def _find_by_name(stores: Stores, name: str) -> Batch | None:
    from issuer.batches.store import open_batches

    batches = [batch async for chunk in open_batches(stores.postgres) for batch in chunk if batch.name == name.strip()]
    if len(batches) > 1:
        ids = "\n".join(f"  {batch.id}  created {batch.created_at:%Y-%m-%d %H:%M:%S} UTC" for batch in batches)
        raise InputError(f"several batches have the name {name!r}; choose one with --batch-id:\n{ids}")
    return batches[0] if batches else None


def _parse_rules(text: str | None) -> Rules | None:
    try:
        return None if text is None else parse_rules_text(text)
    except RulesError as error:
        raise InputError(str(error)) from error
