"""Everything that is stored about a member, table by table: what an export reads, and what an erasure removes.

A table that refers to a member or to its account has a line here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from issuer.ids import id_of
from issuer.instants import show_instant
from issuer.loyalty.hooks.customer_keys import KEY_SQL, customer_keys
from issuer.loyalty.hooks.inbox import FORGOTTEN, claim_for_member
from issuer.loyalty.member import Member, fold_email, member_from_row
from issuer.storage.postgres import AnyConnection

_WHO: Final = """
WITH who AS (
  SELECT $1::uuid[] AS members, $2::bigint[] AS accounts, $3::text[] AS emails, $4::uuid[] AS customers,
    $5::uuid AS client)
"""
"""What a person is found by: members with those that were merged into them, accounts, folded addresses, the customers
that their refs stand for, and the client."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What one table has about a person. `erase` None: it stays, since it names the member by id only."""

    name: str
    read: str
    erase: str | None = None


_ADDRESSED: Final = """
(t.member_id = ANY (who.members) OR t.email_folded = ANY (who.emails)) AND t.program_id IN (
  SELECT p.id FROM loyalty_programs p JOIN members m ON m.client_id = p.client_id WHERE m.id = ANY (who.members))"""

_IN_INBOX: Final = f"""i.member_id = ANY (who.members) OR i.customer_keys && ARRAY(
  SELECT {KEY_SQL} FROM members m, LATERAL (VALUES ('email', m.email_folded), ('ref', m.ref)) AS n (name, value)
  WHERE m.id = ANY (who.members) AND n.value IS NOT NULL)"""

TRACES: Final = (
    Trace(
        "accounts",
        "SELECT a.id AS account_id, p.name AS program, p.unit, a.available, a.held, a.pending, a.debt, a.lifetime,"
        " a.created_at FROM who, accounts a JOIN loyalty_programs p ON p.id = a.program_id"
        " WHERE a.id = ANY (who.accounts) ORDER BY a.id",
    ),
    Trace(
        "entries",
        "SELECT e.account_id, e.seq, e.op, e.points, e.available, e.held, e.pending, e.debt, e.lifetime,"
        " e.order_source, e.order_id, e.reason, e.reverses_seq, e.hold_id, e.move_id, e.terms_number, e.occurred_at"
        " FROM who, entries e WHERE e.account_id = ANY (who.accounts) ORDER BY e.account_id, e.seq",
    ),
    Trace(
        "orders",
        "SELECT o.source, o.order_id, o.amount_minor, o.refunded_minor, o.points, o.reversed, o.account_id"
        " FROM who, orders o WHERE o.account_id = ANY (who.accounts) ORDER BY o.source, o.order_id",
    ),
    Trace(
        "holds",
        "SELECT h.id, h.account_id, h.points, h.captured, h.expires_at, h.state FROM who, points_holds h"
        " WHERE h.account_id = ANY (who.accounts) ORDER BY h.expires_at",
    ),
    Trace(
        "moves",
        "SELECT m.id, m.kind, m.points, m.state, m.reward_id, m.code, m.from_account, m.to_account, m.created_at"
        " FROM who, moves m WHERE m.from_account = ANY (who.accounts) OR m.to_account = ANY (who.accounts)"
        " ORDER BY m.created_at",
    ),
    Trace(
        "cards",
        "SELECT c.number, c.account_id, c.issued_at, c.revoked_at FROM who, cards c"
        " WHERE c.account_id = ANY (who.accounts) ORDER BY c.id",
        "DELETE FROM cards c USING who WHERE c.account_id = ANY (who.accounts)",
    ),
    Trace(
        "sessions",
        "SELECT s.kind, s.program_id, s.began_at, s.expires_at FROM who, sessions s"
        " WHERE s.kind = 'member' AND s.owner = ANY (who.members::text[]) ORDER BY s.began_at",
        "DELETE FROM sessions s USING who WHERE s.kind = 'member' AND s.owner = ANY (who.members::text[])",
    ),
    # Another client's program may have sent one to the same address.
    Trace(
        "login_tokens",
        "SELECT t.purpose, t.program_id, t.email, t.created_at, t.expires_at FROM who, login_tokens t"
        f" WHERE {_ADDRESSED}",
        f"DELETE FROM login_tokens t USING who WHERE {_ADDRESSED}",
    ),
    # The text of a ref is the id of the customer to whom the caller issues codes. The ledger keeps the UUID alone.
    Trace(
        "customer",
        "SELECT DISTINCT l.customer_id AS id, l.customer_text AS text"
        " FROM who, ledger l JOIN pools p ON p.id = l.pool_id"
        " WHERE l.customer_id = ANY (who.customers) AND l.customer_text IS NOT NULL AND p.client_id = who.client",
        "SELECT forget_customer_texts(who.customers, who.client) FROM who",
    ),
    Trace(
        "shop_deliveries",
        f"SELECT i.topic, i.order_id, i.received_at, i.state, i.note FROM who, hook_inbox i WHERE {_IN_INBOX}"
        " ORDER BY i.id",
        f"UPDATE hook_inbox AS i SET {FORGOTTEN} FROM who WHERE ({_IN_INBOX}) AND i.topic <> 'customers/redact'",
    ),
    # An answer may have the member as it was. A repeat of its request is refused once the member is erased.
    Trace(
        "kept_answers",
        "SELECT k.route, k.kept_at FROM who, kept_answers k WHERE k.route LIKE '% /api/v1/loyalty/%' AND EXISTS ("
        " SELECT FROM unnest(who.members) AS m (id) WHERE position(convert_to(m.id::text, 'UTF8') IN k.body) > 0)",
        "DELETE FROM kept_answers k USING who WHERE k.route LIKE '% /api/v1/loyalty/%' AND EXISTS ("
        " SELECT FROM unnest(who.members) AS m (id) WHERE position(convert_to(m.id::text, 'UTF8') IN k.body) > 0)",
    ),
)  # fmt: skip

_FORGET_REF: Final = "SELECT forget_customer_texts($1, $2)"
_FORGET_ADDRESS: Final = """
DELETE FROM login_tokens WHERE email_folded = $2
  AND program_id IN (SELECT id FROM loyalty_programs WHERE client_id = $1)"""

_MEMBERS: Final = "SELECT * FROM members WHERE id = $1 OR merged_into = $1 ORDER BY id <> $1, created_at"
_ACCOUNTS: Final = "SELECT id FROM accounts WHERE member_id = ANY ($1)"


@dataclass(frozen=True, slots=True)
class Person:
    """A member, those that were merged into it, and their accounts in all programs of the client."""

    members: list[Member]
    account_ids: list[int]
    emails: list[str]
    customer_ids: list[UUID]

    @classmethod
    async def of(cls, connection: AnyConnection, member: Member) -> Person:
        rows = await connection.fetch(_MEMBERS, member.id)
        members = [member_from_row(row) for row in rows]
        accounts = await connection.fetch(_ACCOUNTS, [one.id for one in members])
        emails = [row["email_folded"] for row in rows if row["email_folded"] is not None]
        customers = await _customers(connection, [one.ref for one in members if one.ref is not None])
        return cls(members, [row["id"] for row in accounts], emails, customers)

    @property
    def values(self) -> tuple[list[UUID], list[int], list[str], list[UUID], UUID]:
        members = [one.id for one in self.members]
        return members, self.account_ids, self.emails, self.customer_ids, self.members[0].client_id


async def export_person(connection: AnyConnection, member: Member) -> dict[str, Any]:
    """Return everything that is stored about a member. The connection is in a transaction of one snapshot."""
    person = await Person.of(connection, member)
    found: dict[str, Any] = {"members": [one.to_json() for one in person.members]}
    for trace in TRACES:
        rows = await connection.fetch(_WHO + trace.read, *person.values)
        found[trace.name] = [_plain(dict(row)) for row in rows]
    return found


async def erase_traces(connection: AnyConnection, person: Person) -> None:
    """Remove what the other tables have about a person, before `members` forgets how to find it."""
    for trace in TRACES:
        if trace.erase is not None:
            await connection.execute(_WHO + trace.erase, *person.values)


async def leave_old_names(connection: AnyConnection, before: Member, after: Member) -> None:
    """Of names that a change takes from a member, leave nothing that an erasure finds by them alone.

    In the transaction of the change, before the member has the new ones.
    """
    folded, new = (None if one.email is None else fold_email(one.email) for one in (before, after))
    email, ref = None if folded == new else folded, None if before.ref == after.ref else before.ref
    await claim_for_member(connection, customer_keys(before.client_id, email=email, ref=ref), before.id)
    if email is not None:
        await connection.execute(_FORGET_ADDRESS, before.client_id, email)
    if ref is not None:
        await connection.execute(_FORGET_REF, await _customers(connection, [ref]), before.client_id)


async def _customers(connection: AnyConnection, refs: Sequence[str]) -> list[UUID]:
    """Return the customers to whom codes are issued under these refs. Before the first start there are none."""
    installation = await connection.fetchval("SELECT id FROM installation")
    return [] if installation is None else [id_of(ref, installation).uuid for ref in refs]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: show_instant(value) if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value
        for name, value in row.items()
    }
