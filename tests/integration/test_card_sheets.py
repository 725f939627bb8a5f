"""Sheets of cards: printed by the process that draws them, and read back at 150 dpi."""

from __future__ import annotations

from pathlib import Path

import pytest

from issuer.loyalty.card_number import draw_numbers
from issuer.loyalty.card_printing import CardPrintingError, CardSheet, print_cards
from tests.support.printed_cards import count_pages, read_cards

TITLE = "Café Müller & Söhne – Stammkunden"


@pytest.mark.parametrize("count", [100, pytest.param(1_000, marks=(pytest.mark.long, pytest.mark.minutes))])
@pytest.mark.long
async def test_printed_cards_are_read_back(count: int) -> None:
    numbers = list(draw_numbers(count))
    pdf = await print_cards(CardSheet(TITLE, "Kundenkarte · Customer card", numbers, None))
    assert count_pages(pdf) == count // 10
    for page in (0, count // 23, count // 10 - 1):
        expected = sorted(numbers[10 * page : 10 * page + 10])
        assert read_cards(pdf, page) == {"QR Code": expected, "Code 128": expected}


async def test_what_cannot_be_printed_is_named(tmp_path: Path) -> None:
    number = list(draw_numbers(1))
    with pytest.raises(CardPrintingError, match="has no '漢': set ISSUER_CARD_FONT"):
        await print_cards(CardSheet("漢字", "", number, None))
    with pytest.raises(CardPrintingError, match=r"none\.ttf cannot be read"):
        await print_cards(CardSheet("Café", "", number, tmp_path / "none.ttf"))
