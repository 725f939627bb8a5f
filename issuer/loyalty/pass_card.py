"""What a card shows in the wallet of a phone, whichever wallet that is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID


class WalletError(Exception):
    """This installation makes no passes of that kind. The message says what is missing."""


@dataclass(frozen=True, slots=True)
class PassCard:
    """A card as it is when its pass is made; a pass that was added to a wallet is not brought up to date.

    `balance`: points, or with a `currency` an amount. It has no name of a member: a pass leaves the installation.
    """

    program_id: UUID
    program: str
    number: str
    balance: int | Decimal
    currency: str | None
    at: datetime
