"""Coupons without a server: folding, money, expiry dates, consumption ids."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuer.contract.outcomes import Outcome
from issuer.coupons.expiry import parse_expiry
from issuer.coupons.folding import case_sensitive_id, coupon_id, fold, fold_fully
from issuer.coupons.uses import consumption_id, parse_consumption_id, use_id
from issuer.engine.calls import Answer, CouponUses, LookAnswer, UseAnswer, parse_answers
from issuer.instants import LAST, InvalidInstantError
from issuer.money import MoneyError, parse_amount, parse_currency, parse_percentage, show_decimal

codes = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize(
    ("typed", "folded"),
    [
        ("SAVE-20", "save20"), (" save 20 ", "save20"), ("S–A—V‐E−20", "save20"), ("ＳＡＶＥ２０", "save20"),
        ("Straße", "strasse"), ("ÄÖÜ", "äöü"), ("a\tb\u00a0c\u2003d", "abcd"), ("ΣΑΣ", "σασ"), ("- -", ""),
        ("\ufeffSAVE\u200b20\u200e", "save20"), ("\u2060save20\r\n", "save20"),
    ],
)  # fmt: skip
def test_a_code_is_folded(typed: str, folded: str) -> None:
    assert fold(typed) == folded


@given(codes)
def test_folding_twice_changes_nothing(code: str) -> None:
    assert fold(fold(code)) == fold(code)
    assert fold_fully(fold_fully(fold(code))) == fold_fully(fold(code))


@given(st.text(st.characters(codec="ascii"), max_size=40))
def test_ascii_and_unicode_folding_agree(code: str) -> None:
    # A non-ASCII character that folding keeps selects the Unicode path.
    assert fold(code) == fold(code + "ß").removesuffix("ss")


def test_a_code_may_be_folded_with_its_case() -> None:
    for typed in ("Save-20", " S ave20", "Save‐20\u200b", "Ｓａｖｅ２０"):
        assert fold(typed, case_sensitive=True) == "Save20"
    client = UUID(int=1)
    assert case_sensitive_id(client, "save20") != coupon_id(client, "save20")
    assert len({case_sensitive_id(client, text) for text in ("Save", "SAVE")}) == 2


def test_a_coupon_id_depends_on_client_and_fully_folded_code() -> None:
    one, other = UUID(int=1), UUID(int=2)
    assert fold_fully(fold("LO-10")) == fold_fully(fold("1o I0")) == "1010"
    assert coupon_id(one, "1010") == coupon_id(one, "1010")
    assert len({coupon_id(one, "1010"), coupon_id(other, "1010"), coupon_id(one, "101")}) == 3
    assert coupon_id(one, "1010").version == 5, "never the id of a batch, which is random"


DAY_TWO = datetime(1970, 1, 2, tzinfo=UTC)
HALF_PAST = datetime(2030, 1, 15, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("15-Jan-2030", datetime(2030, 1, 16, tzinfo=UTC)), ("1-DEC-2029", datetime(2029, 12, 2, tzinfo=UTC)),
        ("31-dec-2029", datetime(2030, 1, 1, tzinfo=UTC)), ("2028-02-29", datetime(2028, 3, 1, tzinfo=UTC)),
        ("2030-01-15T18:00:00+01:00", datetime(2030, 1, 15, 17, tzinfo=UTC)),
        ("2030-01-15T18:00:00Z", datetime(2030, 1, 15, 18, tzinfo=UTC)), ("29-Dec-9999", LAST), ("1970-01-01", DAY_TWO),
        ("2030-01-15T18:00:00 01:00", datetime(2030, 1, 15, 17, tzinfo=UTC)),
        ("2030-01-15 18:00 0100", datetime(2030, 1, 15, 17, tzinfo=UTC)), ("2030-01-15 12:30:00", HALF_PAST),
        ("2030-01-15 12:30", HALF_PAST), ("2030-01-15T12:30:00", HALF_PAST), ("15-Jan-2030 12:30:00", HALF_PAST),
        ("9999-12-31", None), ("31-Dec-9999", None), ("9999-12-31 23:59:59", None),
    ],
)  # fmt: skip
def test_an_expiry_date_is_parsed(text: str, instant: datetime | None) -> None:
    assert parse_expiry(text) == instant


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "31-Feb-2030", "2029-02-29", "15-Jan-30", "15-Jän-2030", "15-Foo-2030", "2030-01-15 24:30",
        "2030-01-15 12", "30-Dec-9999", "9999-12-30 00:00:01", "9999-12-31T23:59:59Z", "2030-01-15 18:00 1:00",
    ],
)  # fmt: skip
def test_an_invalid_expiry_date_is_refused(text: str) -> None:
    with pytest.raises(InvalidInstantError):
        parse_expiry(text)


@pytest.mark.parametrize(
    ("text", "currency"), [("5.00", "EUR"), ("0.01", "USD"), ("750", "JPY"), ("1.234", "KWD"), ("999999999999", "EUR")]
)
def test_an_amount_keeps_its_decimals(text: str, currency: str) -> None:
    assert show_decimal(parse_amount(text, parse_currency(currency.lower()))) == text


@pytest.mark.parametrize(
    ("text", "currency"),
    [("0", "EUR"), ("-1", "EUR"), ("1e3", "EUR"), ("1,5", "EUR"), ("5.001", "EUR"), ("7.5", "JPY"), ("٣", "EUR"),
     ("NaN", "EUR"), ("1" * 13, "EUR"), ("", "EUR"), ("+1", "EUR"), (".5", "EUR"), ("5.", "EUR")],
)  # fmt: skip
def test_an_invalid_amount_is_refused(text: str, currency: str) -> None:
    with pytest.raises(MoneyError):
        parse_amount(text, currency)


def test_percentages_and_currencies_are_parsed() -> None:
    assert parse_percentage("12.5") == Decimal("12.5")
    for text in ("0", "100.01", "ten"):
        with pytest.raises(MoneyError):
            parse_percentage(text)
    for text in ("XXQ", "EURO", ""):
        with pytest.raises(MoneyError):
            parse_currency(text)


numbers = st.integers(1, 2**63 - 1)


@given(numbers, numbers, st.uuids())
def test_a_consumption_id_identifies_its_use_and_cannot_be_forged(pool_id: int, seq: int, call_id: UUID) -> None:
    name = parse_consumption_id(consumption_id(pool_id, seq, call_id.hex))
    assert name is not None
    assert (name.pool_id, name.seq) == (pool_id, seq)
    assert name.is_of(call_id.hex)
    assert not name.is_of(UUID(int=call_id.int ^ 1).hex)


@given(st.text(max_size=40))
def test_other_texts_are_not_consumption_ids(text: str) -> None:
    found = parse_consumption_id(text)
    assert found is None or len(text) == 32


def test_answers_about_coupons_are_decoded() -> None:
    call_id = UUID(int=7).hex
    uses = CouponUses(3, call_id, b'{"code":"A B"}')
    joined = (
        b'USED 1 14\x1fUSED_BEFORE 2 15 1700000000123 6 801\x1fUSABLE 9 {"code":"A B"}\x1fWRONG_PRODUCT'
        b'\x1e3 %b 1 {"code":"A B"}\x1f4 %b 2 {"a":"b c"}' % (call_id.encode(), call_id.encode())
    )
    granted, replayed, usable, refused = parse_answers(joined, 1_700_000_000_000)
    assert granted == UseAnswer(Outcome.GRANTED, number=14, uses=uses)
    assert replayed == UseAnswer(Outcome.REPLAYED, number=15, uses=CouponUses(4, call_id, b'{"a":"b c"}'))
    assert usable == LookAnswer(Outcome.USABLE, remaining=9, terms=b'{"code":"A B"}')
    assert refused == Answer(Outcome.WRONG_PRODUCT)
    assert use_id(uses, 14).decode() == consumption_id(3, 14, call_id)
