"""Lists of a program's members, all of them or those that a search finds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from issuer.loyalty.card_number import read_number
from issuer.loyalty.member import InvalidMemberError, fold_email, parse_email, parse_phone, parse_ref
from issuer.loyalty.member_store import PROGRAM_MEMBER, ProgramMember, program_member_from_row
from issuer.loyalty.program import Program
from issuer.names import trimmed
from issuer.paging import Page, decode_cursor, encode_cursor
from issuer.storage.postgres import Pool, unavailable_translated

MAX_SEARCH: Final = 100
_WORD: Final = re.compile(r"\w+")
_LIKE: Final = re.compile(r"([\\%_])")

# A member that was merged is found by what it had, and shown as its target.
_PAGE: Final = f"""
{PROGRAM_MEMBER}
FROM accounts a JOIN members m ON m.id = a.member_id
WHERE a.program_id = $1 AND a.id > $2 AND m.merged_into IS NULL AND ($3 OR m.id IN (
  SELECT coalesce(f.merged_into, f.id) FROM members f
  WHERE f.client_id = $4 AND ($5::text IS NULL OR f.ref = $5) AND ($6::text IS NULL OR f.email_folded = $6)
    AND ($7::text IS NULL OR f.phone = $7)
    AND ($8::text IS NULL OR f.ref LIKE $8 OR f.email_folded LIKE $9
      OR to_tsvector('simple', f.name) @@ to_tsquery('simple', $10))))
  AND ($11::text IS NULL OR m.id IN (
    SELECT coalesce(f.merged_into, f.id) FROM cards c JOIN accounts ca ON ca.id = c.account_id
    JOIN members f ON f.id = ca.member_id WHERE c.number = $11 AND c.program_id = $1 AND c.revoked_at IS NULL))
ORDER BY a.id LIMIT $12"""


@dataclass(frozen=True, slots=True)
class MemberQuery:
    """What members are searched by; all of it has to match. `text`: how a name, an address or a ref begins."""

    ref: str | None = field(default=None, repr=False)
    email: str | None = field(default=None, repr=False)
    phone: str | None = field(default=None, repr=False)
    card: str | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, given: Mapping[str, str]) -> MemberQuery:
        """Return the query of the parameters `ref`, `email`, `phone`, `card` and `q`. Raises InvalidMemberError."""
        email, phone, card, text = (given.get(name) for name in ("email", "phone", "card", "q"))
        if text is not None:
            text = trimmed(text)
            if not 1 <= len(text) <= MAX_SEARCH or "\0" in text:
                raise InvalidMemberError(f"q must have 1 to {MAX_SEARCH} characters")
        if phone is not None and phone.startswith(" "):
            # In a query an unencoded + is a space.
            phone = f"+{phone[1:]}"
        return cls(
            parse_ref(given["ref"]) if "ref" in given else None,
            None if email is None else fold_email(parse_email(email)),
            None if phone is None else parse_phone(phone),
            None if card is None else parse_card(card),
            text,
        )

    @property
    def asks_for_people(self) -> bool:
        """Whether the rows of `members` have to be searched."""
        return (self.ref, self.email, self.phone, self.text) != (None, None, None, None)


def parse_card(typed: str) -> str:
    """Return the number of a card. Raises InvalidMemberError."""
    number = read_number(typed)
    if number is None:
        raise InvalidMemberError("card must be the number of a card, whose last character checks the others")
    return number


async def list_members(
    postgres: Pool, program: Program, query: MemberQuery, *, limit: int = 100, cursor: str | None = None
) -> Page[ProgramMember]:
    """Return one page of the members that match, in the order in which they joined the program.

    Raises InvalidCursorError and PostgresUnavailableError.
    """
    (after,) = decode_cursor("members", cursor, (int,)) if cursor else (0,)
    text = query.text
    words = [] if text is None else _WORD.findall(text)
    prefix = None if text is None else _LIKE.sub(r"\\\1", text) + "%"
    folded = None if text is None else _LIKE.sub(r"\\\1", fold_email(text)) + "%"
    async with unavailable_translated():
        rows = await postgres.fetch(
            _PAGE, program.id, after, not query.asks_for_people, program.client_id, query.ref, query.email, query.phone,
            prefix, folded, " & ".join(f"{word}:*" for word in words) or None, query.card, limit + 1,
        )  # fmt: skip
    found = [program_member_from_row(row) for row in rows]
    return Page.of(found, limit, lambda last: encode_cursor("members", (last.account_id,)))
