"""Card numbers: what is drawn, and what is read of what people type."""

from __future__ import annotations

from issuer.loyalty.card_number import FORMAT, MAX_TYPED, draw_numbers, read_number, show_number


def test_a_number_is_read_as_it_was_printed_and_typed() -> None:
    numbers = draw_numbers(500)
    assert len(set(numbers)) == 500
    for number in numbers:
        shown = show_number(number)
        assert [len(group) for group in shown.split("-")] == [4, 4, 4]
        for typed in (number, shown, shown.lower(), f"  {shown.replace('-', ' ')}\n", shown.replace("-", "–")):
            assert read_number(typed) == number


def test_typing_errors_are_found() -> None:
    for number in draw_numbers(20):
        for place, right in enumerate(number):
            wrong = [number[:place] + other + number[place + 1 :] for other in FORMAT.characters if other != right]
            assert [typed for typed in wrong if read_number(typed) is not None] == []
        for typed in (number[:-1], number + "2", "", "0" * 12, f"{number[:-1]}ẞ", number + " " * MAX_TYPED):
            assert read_number(typed) is None
