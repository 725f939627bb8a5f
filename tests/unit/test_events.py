"""The event format: what is encoded is decoded, by row and by column, and any bytes are decoded or refused."""

from __future__ import annotations

import uuid
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from issuer.contract.elements import ATTRIBUTES_MARK
from issuer.contract.events import (
    NewerEventError,
    Redemption,
    RedemptionColumns,
    UndecodableEventError,
    add_spans,
    decode_columns,
    decode_event,
    encode_order,
    encode_who,
)

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=300).filter(
    lambda text: len(text.encode()) < 65_536
)
customers = st.none() | st.uuids()
key_hashes = st.none() | st.binary(min_size=16, max_size=16)
rows_of_pools = st.tuples(texts, customers, key_hashes, st.integers(0, 2**32 - 1))


def text_of(customer: UUID | None) -> str | None:
    """Return what a caller gave for every second customer: an id of up to 512 bytes."""
    return None if customer is None or customer.int % 2 else "夏" * (1 + customer.int % 128) + "😀" * 30


def encode(pools: list[tuple[int, int, list[tuple[str, UUID | None, bytes | None, int]]]]) -> bytes:
    """Encode redemptions as redeem.lua does. Every second code has attributes."""
    data = b""
    for pool_id, first_seq, rows in pools:
        data += b"R %d %d %d\n" % (pool_id, first_seq, len(rows))
        for code, customer, key_hash, api_key_id in rows:
            text = code.encode() + (ATTRIBUTES_MARK + b'{"pin": "1"}') * (api_key_id % 2)
            data += len(text).to_bytes(2) + text
            data += encode_who(customer.bytes if customer else None, api_key_id, key_hash, text_of(customer))
    return data


pools = st.lists(
    st.tuples(st.integers(1, 2**62), st.integers(1, 2**62), st.lists(rows_of_pools, min_size=1, max_size=5)), max_size=4
)


def entry(data: bytes, count: int, call_id: UUID) -> dict[bytes, bytes]:
    return {
        b"v": b"4", b"e": b"7", b"t": b"1700000000123", b"c": call_id.hex.encode(), b"s": b"101", b"n": b"%d" % count,
        b"d": data,
    }  # fmt: skip


def seqs_of(data: bytes, facts: int) -> list[tuple[int, int]]:
    """Return pool id and seq of each fact, found without decoding one."""
    spans: list[tuple[int, int, int]] = []
    if facts:
        add_spans(data, facts, spans)
    return [(pool_id, seq) for pool_id, first, last in spans for seq in range(first, last + 1)]


@given(pools, st.uuids())
def test_round_trip(
    given_pools: list[tuple[int, int, list[tuple[str, UUID | None, bytes | None, int]]]], call_id: UUID
) -> None:
    expected = [
        Redemption(
            pool,
            first + i,
            code,
            customer,
            1700000000123,
            call_id,
            key_hash,
            api_key,
            7,
            0,
            customer_text=text_of(customer),
        )
        for pool, first, rows in given_pools
        for i, (code, customer, key_hash, api_key) in enumerate(rows)
    ]
    expected = [replace(one, serial=101 + place) for place, one in enumerate(expected)]
    data = encode(given_pools)
    fields = entry(data, len(expected), call_id)
    event = decode_event(fields)
    assert (event.epoch, event.serial, event.count, event.redemptions) == (7, 101, len(expected), expected)
    columns = RedemptionColumns()
    assert decode_columns(fields, columns) == (7, len(expected))
    assert list(columns.redemptions()) == expected
    assert seqs_of(data, len(expected)) == [(one.pool_id, one.seq) for one in expected]
    by_row = RedemptionColumns()
    for redemption in expected:
        by_row.append(redemption)
    assert by_row.columns() == columns.columns()


orders = st.text(st.characters(exclude_categories=["Cs"]), max_size=255)
uses = st.tuples(orders, customers, key_hashes, st.integers(0, 2**32 - 1))
coupons = st.lists(
    st.tuples(
        st.integers(1, 2**62), st.integers(1, 2**62), st.integers(1, 2**31), st.lists(uses, min_size=1, max_size=5)
    ),
    max_size=3,
)


@given(pools, coupons, st.uuids())
def test_an_event_carries_uses_of_coupons_behind_redemptions(
    given_pools: list[tuple[int, int, list[tuple[str, UUID | None, bytes | None, int]]]],
    given_coupons: list[tuple[int, int, int, list[tuple[str, UUID | None, bytes | None, int]]]],
    call_id: UUID,
) -> None:
    data, expected = encode(given_pools), list[Redemption]()
    redemptions = sum(len(rows) for _, _, rows in given_pools)
    for pool, first, terms, rows in given_coupons:
        data += b"C %d %d %d %d\n" % (pool, first, len(rows), terms)
        for i, (order, customer, key_hash, api_key_id) in enumerate(rows):
            who = encode_who(customer.bytes if customer else None, api_key_id, key_hash, text_of(customer))
            data += who + encode_order(order)
            expected.append(
                Redemption(
                    pool,
                    first + i,
                    "",
                    customer,
                    1700000000123,
                    call_id,
                    key_hash,
                    api_key_id,
                    7,
                    101 + redemptions + len(expected),
                    text_of(customer),
                    terms,
                    order,
                )
            )
    columns = RedemptionColumns()
    fields = entry(data, redemptions + len(expected), call_id)
    assert decode_columns(fields, columns) == (7, redemptions + len(expected))
    assert list(columns.redemptions())[redemptions:] == expected
    assert decode_event(fields).redemptions[redemptions:] == expected
    assert seqs_of(data, len(columns)) == list(zip(columns.pool_ids, columns.seqs, strict=True))


names = st.sampled_from([b"v", b"e", b"t", b"c", b"s", b"n", b"d"])


@given(st.dictionaries(names, st.binary(max_size=60)))
def test_arbitrary_bytes_raise_nothing_else(fields: dict[bytes, bytes]) -> None:
    columns = RedemptionColumns()
    try:
        decode_columns(fields, columns)
    except UndecodableEventError:
        assert len(columns) == 0
        assert all(not column for column in columns.columns())


@given(st.data())
def test_a_damaged_event_is_refused_or_decoded_and_leaves_no_half_rows(data: st.DataObject) -> None:
    rows: list[tuple[str, UUID | None, bytes | None, int]] = [
        ("code", uuid.UUID(int=5), b"k" * 16, 3), ("öde", uuid.UUID(int=6), None, 0)
    ]  # fmt: skip
    fields = entry(encode([(1, 10, rows), (2, 20, rows)]), 4, uuid.UUID(int=9))
    name = data.draw(names)
    value = bytearray(fields[name])
    match data.draw(st.sampled_from(["cut", "flip", "insert", "missing"])):
        case "cut":
            value = value[: data.draw(st.integers(0, len(value)))]
        case "flip":
            value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
        case "insert":
            at = data.draw(st.integers(0, len(value)))
            value[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        case _:
            del fields[name]
    if name in fields:
        fields[name] = bytes(value)
    columns = RedemptionColumns()
    columns.append(Redemption(1, 1, "before", None, 1, uuid.UUID(int=1), None, 0, 1, 1))
    try:
        _, count = decode_columns(fields, columns)
    except UndecodableEventError:
        count = 0
    assert {len(column) for column in columns.columns()} == {1 + count}
    assert columns.codes[0] == "before"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({b"v": b"3"}, "event version 3 is not known"),
        ({b"s": b"x"}, "ValueError"),
        ({b"d": b"R 1 1 1\n\0\1a" + encode_who(None, 1, None).replace(b"\2", b"\6", 1)}, "unknown flags"),
        ({b"d": b"C 1 1 1\n" + bytes(40)}, "unknown kind"),
        ({b"d": b"C 1 1 1 0\n" + bytes(40)}, "unknown kind"),
        ({b"d": b"C 1 1 1000 1\n" + bytes(40)}, "redemptions in"),
        ({b"d": b"C 1 1 1 1\n" + encode_who(None, 1, None) + b"\0\x09order"}, "cut in the middle of a use"),
        ({b"n": b"3"}, "2 redemptions where 3 were announced"),
        ({b"d": b"X 1 1 1\n"}, "unknown kind"),
        ({b"d": b"R 1 1 1000000000000\n"}, "redemptions in 0 bytes"),
        ({b"d": b"R 1 1 -1\n" + bytes(40)}, "redemptions in"),
        ({b"c": b"zz"}, "ValueError"),
        ({b"t": b""}, "ValueError"),
    ],
)
def test_the_error_names_the_fault(changes: dict[bytes, bytes], reason: str) -> None:
    rows: list[tuple[str, UUID | None, bytes | None, int]] = [("a", None, None, 0), ("b", None, None, 0)]
    with pytest.raises(UndecodableEventError, match=reason):
        decode_event(entry(encode([(1, 1, rows)]), 2, uuid.uuid4()) | changes)


def test_the_event_of_a_later_version_is_no_damaged_one() -> None:
    with pytest.raises(NewerEventError, match="event version 5 is newer than version 4"):
        decode_event(entry(b"", 0, uuid.uuid4()) | {b"v": b"5"})


def test_take_and_slice_keep_the_rows_together() -> None:
    columns = RedemptionColumns()
    rows = [Redemption(1, seq, f"c{seq}", None, seq, uuid.UUID(int=seq), None, 0, 1, seq) for seq in range(1, 6)]
    for row in rows:
        columns.append(row)
    assert list(columns.take([4, 0]).redemptions()) == [rows[4], rows[0]]
    assert list(columns.slice(1, 3).redemptions()) == rows[1:3]
