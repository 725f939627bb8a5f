"""The batch of a command, by name or id; and the one that a command adds codes to: an existing one, or a new one."""

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
from issuer.ids import parse_uuid

if TYPE_CHECKING:
    from datetime import datetime

    from issuer.batches.named import AmbiguousNameError
    from issuer.batches.store import Batch
    from issuer.storage.postgres import Pool
    from issuer.storage.stores import Stores

BATCH: Final[Any] = typer.Argument(..., metavar="BATCH", help="Name or id of the batch.")
ANY_BATCH: Final[Any] = typer.Option(
    None, "--batch", "--batch-id", help="Only this batch, campaign or coupon: its name, code or id."
)
BATCH_NAME: Final[Any] = typer.Option(
    None, help="Name of a batch that has not expired; without such a batch a new one is created."
)
BATCH_ID: Final[Any] = typer.Option(
    None, help="Id of a batch (UUID); without such a batch a new one with this id is created, called --batch-name."
)
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
        if name is None and id is None:
            raise InputError("give --batch-name or --batch-id")
        return chosen

    async def find(self, stores: Stores) -> Batch | None:
        """Return the batch; None: it has to be created. Raises InputError."""
        from issuer.batches.named import AmbiguousNameError, find_named_batch
        from issuer.batches.store import BatchNotFoundError, find_batch

        try:
            if self.id is not None:
                return self._check_unchanged(await find_batch(stores.postgres, self.id))
            assert self.name is not None
            batch = await find_named_batch(stores.postgres, self.name)
        except BatchNotFoundError:
            return None
        except AmbiguousNameError as error:
            raise ambiguous(error, "--batch-id") from error
        return None if batch.expired else self._check_unchanged(batch)

    def new_batch(self) -> NewBatch:
        """Return the values of the batch to create."""
        name = self.name if self.name is not None else f"batch {self.id}"
        return NewBatch(name, self.rules or Rules(), self.starts_at, self.ends_at, self.id)

    async def find_or_create(self, stores: Stores, *, dry_run: bool = False) -> tuple[Batch | None, bool]:
        """Return the batch and whether it is new; None for a dry run with a new batch. Raises InputError."""
        from issuer.access.audit import cli_actor
        from issuer.batches.store import BatchIdTakenError, InvalidBatchError, create_batch, find_or_create_batch

        existing = await self.find(stores)
        if existing is not None or dry_run:
            return existing, existing is None
        try:
            if self.id is not None:
                return await create_batch(stores, self.new_batch(), actor=cli_actor()), True
            batch, new = await find_or_create_batch(stores, self.new_batch(), actor=cli_actor())
        except (InvalidBatchError, BatchIdTakenError) as error:
            raise InputError(str(error)) from error
        return (batch if new else self._check_unchanged(batch)), new

    def _check_unchanged(self, batch: Batch) -> Batch:
        """Return the batch. Raise InputError for options that differ from it: adding codes changes nothing else."""
        if self.id is not None and self.name not in (None, batch.name):
            raise InputError(f"batch {batch.id} has the name {batch.name!r}; omit --batch-name")
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


async def named_batch(postgres: Pool, given: str, *, client_id: UUID | None = None) -> Batch:
    """Return the batch with this name or id. Raises InputError."""
    from issuer.batches.named import AmbiguousNameError, find_named_batch
    from issuer.batches.store import BatchNotFoundError, find_batch

    batch_id = parse_uuid(given)
    try:
        if batch_id is not None:
            return await find_batch(postgres, batch_id, client_id=client_id)
        return await find_named_batch(postgres, given, client_id=client_id)
    except BatchNotFoundError as error:
        raise InputError(f"no batch found with the name or id {given!r}") from error
    except AmbiguousNameError as error:
        raise ambiguous(error, "the id") from error


async def any_batch(postgres: Pool, given: str | None) -> UUID | None:
    """Return the id of the batch, campaign or coupon with this name, code or id; None if None is given.

    A name finds a batch first, then a campaign, then a coupon. Raises InputError.
    """
    from issuer.batches.named import AmbiguousNameError, find_named_batch
    from issuer.batches.store import BatchNotFoundError
    from issuer.campaigns.campaign import CampaignNotFoundError
    from issuer.campaigns.store import find_named_campaign
    from issuer.coupons.coupon import CouponNotFoundError, ManyClientsError
    from issuer.coupons.store import find_coupon
    from issuer.storage.postgres import unavailable_translated

    if given is None:
        return None
    batch_id = parse_uuid(given)
    if batch_id is not None:
        async with unavailable_translated():
            if await postgres.fetchval("SELECT EXISTS (SELECT FROM batches WHERE id = $1)", batch_id):
                return batch_id
        raise InputError(f"no batch, campaign or coupon has the id {batch_id}")
    try:
        with suppress(BatchNotFoundError):
            return (await find_named_batch(postgres, given)).id
        with suppress(CampaignNotFoundError):
            return (await find_named_campaign(postgres, given)).id
        with suppress(CouponNotFoundError):
            return (await find_coupon(postgres, given)).id
    except AmbiguousNameError as error:
        raise ambiguous(error, "the id") from error
    except ManyClientsError as error:
        raise InputError("several clients have a coupon with this code: give its id") from error
    raise InputError(f"no batch, campaign or coupon has the name {given!r}")


def ambiguous(error: AmbiguousNameError, instead: str) -> InputError:
    """Return the refusal of a name that several open batches have."""
    ids = "\n".join(f"  {batch.id}  created {batch.created_at:%Y-%m-%d %H:%M:%S} UTC" for batch in error.batches)
    return InputError(f"several batches have the name {error.name!r}; choose one with {instead}:\n{ids}")


def _parse_rules(text: str | None) -> Rules | None:
    try:
        return None if text is None else parse_rules_text(text)
    except RulesError as error:
        raise InputError(str(error)) from error
