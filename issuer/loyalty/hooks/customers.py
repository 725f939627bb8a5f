"""Customers of shops as members: found by e-mail, the shop's own id, or the number of a card."""

from __future__ import annotations

from contextlib import suppress
from typing import Final
from uuid import UUID

from issuer.loyalty.account import open_account
from issuer.loyalty.card_number import read_number
from issuer.loyalty.hooks.customer_keys import keys_of_customer
from issuer.loyalty.hooks.endpoint import HookEndpoint
from issuer.loyalty.hooks.events import ShopCustomer
from issuer.loyalty.hooks.inbox import forget_customer
from issuer.loyalty.member import Member, MemberNotFoundError, fold_email
from issuer.loyalty.member_erasure import erase_member
from issuer.loyalty.member_store import find_member_of_client
from issuer.loyalty.program import Program
from issuer.storage.postgres import Pool, unavailable_translated

_BY_CARD: Final = """
SELECT coalesce(m.merged_into, m.id) FROM cards c JOIN accounts a ON a.id = c.account_id
JOIN members m ON m.id = a.member_id WHERE c.number = $1 AND c.program_id = $2 AND c.revoked_at IS NULL"""


async def find_customer(postgres: Pool, endpoint: HookEndpoint, customer: ShopCustomer) -> UUID | None:
    """Return the member that a shop's customer is; None: there is none. Raises PostgresUnavailableError."""
    number = None if customer.card is None else read_number(customer.card)
    if number is not None:
        async with unavailable_translated():
            found: UUID | None = await postgres.fetchval(_BY_CARD, number, endpoint.program_id)
        return None if found is None else UUID(bytes=found.bytes)
    member = await _find_member(postgres, endpoint, customer)
    return None if member is None else member.id


async def find_present(postgres: Pool, endpoint: HookEndpoint, member_id: UUID) -> UUID | None:
    """Return who a member is now, which is another one after a merge; None: they were erased."""
    try:
        return _present(await find_member_of_client(postgres, endpoint.client_id, str(member_id))).id
    except MemberNotFoundError:
        return None


async def find_account(postgres: Pool, program: Program, member_id: UUID) -> int:
    """Return the account of a member in the program, opened if there is none."""
    async with unavailable_translated(), postgres.acquire() as connection, connection.transaction():
        return await open_account(connection, program, member_id)


async def forget(postgres: Pool, endpoint: HookEndpoint, customer: ShopCustomer) -> bool:
    """Erase a customer, as a member and in the inbox. Return whether they were a member. A repeat changes nothing."""
    member = await _find_member(postgres, endpoint, customer)
    if member is not None:
        await erase_member(postgres, member, actor=f"hook:{endpoint.id}")
    await forget_customer(postgres, keys_of_customer(endpoint.client_id, customer))
    return member is not None


async def _find_member(postgres: Pool, endpoint: HookEndpoint, customer: ShopCustomer) -> Member | None:
    if customer.ref is not None:
        with suppress(MemberNotFoundError):
            return _present(await find_member_of_client(postgres, endpoint.client_id, customer.ref))
    if customer.email is not None:
        folded = fold_email(customer.email)
        with suppress(MemberNotFoundError):
            return _present(await find_member_of_client(postgres, endpoint.client_id, email_folded=folded))
    return None


def _present(member: Member) -> Member:
    if member.erased_at is not None:
        raise MemberNotFoundError
    return member
