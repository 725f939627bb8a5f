"""Which cards are printed together, and with which texts."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from uuid import UUID

from issuer.loyalty.card_printing import CardSheet
from issuer.loyalty.cards import MAX_CARDS, CardNotFoundError, CardState, list_cards
from issuer.loyalty.program import Program
from issuer.loyalty.terms import POINTS
from issuer.storage.postgres import Pool

_CAPTIONS: Final = {True: "Customer card", False: "Gift card"}


def sheet_of(program: Program, numbers: list[str], font: Path | None) -> CardSheet:
    """Return the sheets of these cards."""
    return CardSheet(program.name, _CAPTIONS[program.unit == POINTS], numbers, font)


async def sheet_of_run(postgres: Pool, program: Program, run_id: UUID, font: Path | None) -> CardSheet:
    """Return the sheets of the cards of a run that are not revoked. Raises CardNotFoundError: there are none."""
    page = await list_cards(postgres, program, run_id=run_id, limit=MAX_CARDS)
    numbers = [card.number for card in page.items if card.state is not CardState.REVOKED]
    if not numbers:
        raise CardNotFoundError
    return sheet_of(program, numbers, font)
