"""CSV files of codes: accepted rows, rejected rows and their reasons, no loss of other rows."""

from __future__ import annotations

import csv
import io
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from issuer.ids import id_of
from issuer.loading.bounded_lines import LINE_BYTES
from issuer.loading.code_csv import MAX_ROW_LINES, CodeCsv
from issuer.loading.code_rows import MAX_REJECTIONS, CodeRows, Reason, Rejection
from issuer.loading.errors import HeaderRowError
from issuer.loading.file_clients import MAX_CLIENTS, FileClients, TooManyClientsError
from issuer.names import first_unseen, trimmed

A = UUID("11111111-1111-4111-8111-111111111111")
B = UUID("22222222-2222-4222-8222-222222222222")
INSTALLATION = UUID("33333333-3333-4333-8333-333333333333")
HEADER = b"client_id,code\n"


class Read:
    """The result of parsing a file."""

    def __init__(
        self, data: bytes, *, client_id: UUID | None = None, default: UUID | None = None, block: int = 1 << 20
    ) -> None:
        self.csv = CodeRows(FileClients(lambda text: id_of(text, INSTALLATION), only=client_id, default=default))
        reader = CodeCsv(self.csv)
        blocks = [data[at : at + block] for at in range(0, len(data), block)]
        copied = b"".join([*(reader.feed(block) for block in blocks), reader.finish()])
        self.rows = [self._row(line) for line in copied.decode().split("\n")[:-1]]
        self.rejections = [(rejection.line, rejection.reason) for rejection in self.csv.rejections]
        self._check_numbers()

    def _row(self, line: str) -> tuple[int, UUID, int, str]:
        row, client, number, code = line.split("\t")
        return int(row), self.csv.clients.ids[int(client)], int(number), code.replace("\\\\", "\\")

    def _check_numbers(self) -> None:
        lines = [row[0] for row in self.rows]
        assert lines == sorted(set(lines))
        assert len(lines) == self.csv.accepted
        assert self.csv.rejected >= len(self.rejections)
        numbers: dict[UUID, int] = {}
        for _, client, number, _ in self.rows:
            numbers[client] = numbers.get(client, 0) + 1
            assert number == numbers[client]

    @property
    def codes(self) -> list[str]:
        return [row[3] for row in self.rows]


def row(code: bytes | str, client: UUID = A) -> bytes:
    return str(client).encode() + b"," + (code.encode() if isinstance(code, str) else code) + b"\n"


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        (HEADER + row("X1") + row("X2", B), ["X1", "X2"]),
        (b"\xef\xbb\xbf" + HEADER + row("X1"), ["X1"]),
        (HEADER.replace(b"\n", b"\r\n") + row("X1").replace(b"\n", b"\r\n") + row("X2"), ["X1", "X2"]),
        (HEADER + row("X1")[:-1], ["X1"]),
        (HEADER + row("X1")[:-1] + b"\r", ["X1"]),
        (b" Client ID , CODE ,note\n" + row("X1,n"), ["X1"]),
        (b'"Code","client-id"\nX1,%s\n' % str(A).encode(), ["X1"]),
        (b"\n\r\n" + HEADER + b"\n\n" + row("X1") + b"   \n\n", ["X1"]),
        (HEADER + row("0007") + row("1e5") + row("=1+1"), ["0007", "1e5", "=1+1"]),
        (HEADER + row(" \t X 1 \t") + row("\ufeffX2\u200b\u00a0") + row("X3\x1f"), ["X 1", "X2", "X3"]),
        (HEADER + row('="0012"') + row('"=""00,13"""') + row('="A""B"'), ["0012", "00,13", 'A"B']),
        (HEADER + row('"X,1"') + row('"X""2"') + row('" X3 "') + row(' "X4"'), ["X,1", 'X"2', "X3", "X4"]),
        (HEADER + row('X"1'), ['X"1']),
        (HEADER + row("X\\1") + row("\\N") + row("\\."), ["X\\1", "\\N", "\\."]),
        (HEADER + row("Ω€😀é"), ["Ω€😀é"]),
        (HEADER + row("X1,") + row("X2,,, "), ["X1", "X2"]),
        (HEADER + row("X1").upper(), ["X1"]),
        (HEADER + row("X1").replace(b"-", b""), ["X1"]),
        (HEADER + row("x" * 255) + row("é" * 255), ["x" * 255, "é" * 255]),
        (b'code,note,client_id\nX1,"a\nb,c",%s\nX2,n,%s' % (str(A).encode(), str(A).encode()), ["X1", "X2"]),
        (HEADER + b",\n , ,\n" + row("X1") + b'"",""\n', ["X1"]),
        (HEADER.replace(b"\n", b"\r") + row("X1").replace(b"\n", b"\r") + row("X2")[:-1], ["X1", "X2"]),
        ((HEADER + row("X1") + row('"X;2"')).replace(b",", b";"), ["X1", "X;2"]),
        ((HEADER + row("X1") + row("X,2")).replace(b",", b"\t").replace(b"X\t2", b"X,2"), ["X1", "X,2"]),
        (b"sep=;\n" + (HEADER + row("X1")).replace(b",", b";"), ["X1"]),
        (b"sep=|\r\n" + (HEADER + row("X1")).replace(b",", b"|"), ["X1"]),
        ((HEADER + row("Ω") + row("X1")).decode().encode("utf-16"), ["Ω", "X1"]),
        (b"\xfe\xff" + (HEADER + row("X1")).decode().encode("utf-16-be"), ["X1"]),
        ((HEADER + row("X1")).decode().encode("utf-16-le"), ["X1"]),
        (HEADER, []),
    ],
)  # fmt: skip
def test_valid_rows_are_accepted(data: bytes, codes: list[str]) -> None:
    for block in (1, 7, 1 << 20):
        read = Read(data, block=block)
        assert read.codes == codes
        assert read.rejections == []


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (str(A).encode(), Reason.TOO_FEW_COLUMNS),
        (row("X,Y")[:-1], Reason.TOO_MANY_COLUMNS),
        (b"x" * 129 + b",X", Reason.BAD_CLIENT_ID),
        (b",X", Reason.NO_CLIENT),
        ("a\u202eb,X".encode(), Reason.BAD_CLIENT_ID),
        (b"\xff,X", Reason.NOT_UTF8),
        (row("")[:-1], Reason.EMPTY),
        (row('" "')[:-1], Reason.EMPTY),
        (row("\u00a0")[:-1], Reason.EMPTY),
        (row("x" * 256)[:-1], Reason.TOO_LONG),
        (row("é" * 256)[:-1], Reason.TOO_LONG),
        (row("a\x00b")[:-1], Reason.CONTROL_CHARACTER),
        (row("a\tb")[:-1], Reason.CONTROL_CHARACTER),
        (row("\x1e")[:-1], Reason.EMPTY),
        (row("a\u200bb")[:-1], f"{Reason.HIDDEN_CHARACTER}: U+200B ZERO WIDTH SPACE at 2"),
        (row("a\u00a0b")[:-1], f"{Reason.HIDDEN_CHARACTER}: U+00A0 NO-BREAK SPACE at 2"),
        (row("a\x7fb")[:-1], Reason.CONTROL_CHARACTER),
        (row("a\u0085b")[:-1], Reason.CONTROL_CHARACTER),
        (row("a\rb")[:-1], Reason.CONTROL_CHARACTER),
        (row(b"\xff")[:-1], Reason.NOT_UTF8),
        (row(b"\xed\xa0\x80")[:-1], Reason.NOT_UTF8),
        (row('"X"Y')[:-1], Reason.BAD_QUOTES),
        (row('"X')[:-1], Reason.BAD_QUOTES),
        (row("X," + "y" * LINE_BYTES)[:-1], Reason.LINE_TOO_LONG),
    ],
)
@pytest.mark.parametrize("block", [5, 1 << 20])
def test_an_invalid_row_is_rejected_alone(bad: bytes, reason: str, block: int) -> None:
    read = Read(HEADER + row("X1") + bad + b"\n" + row("X2") + row("X3"), block=block)
    assert read.codes == ["X1", "X2", "X3"]
    assert read.rejections == [(3, str(reason))]


def test_an_open_quote_does_not_swallow_the_next_rows() -> None:
    read = Read(HEADER + row('"X1') + row("X2") + row('X3"') + row("X4"))
    assert read.codes == ["X2", 'X3"', "X4"]
    assert read.rejections == [(2, Reason.BAD_QUOTES.value)]


def test_open_quotes_reject_only_their_own_lines() -> None:
    lines = [row(f'"X{number}') if number % 7 == 0 else row(f"X{number}") for number in range(1_000)]
    read = Read(HEADER + b"".join(lines), block=997)
    assert read.codes == [f"X{number}" for number in range(1_000) if number % 7]
    assert [line for line, _ in read.rejections] == [number + 2 for number in range(0, 1_000, 7)]


def test_an_ignored_column_may_have_line_breaks_up_to_the_limit() -> None:
    note = b"\n" * (MAX_ROW_LINES - 1)
    data = b"client_id,code,note\n" + row(b'X1,"' + note + b'"') + row("Y1,")
    assert Read(data, block=64).codes == ["X1", "Y1"]
    read = Read(b"client_id,code,note\n" + row(b'X1,"' + note + b'\n"') + row("Y1,"), block=64)
    assert read.codes == ["Y1"]


def test_line_numbers_count_lines_within_rows() -> None:
    read = Read(b"client_id,code,note\n" + row(b'X1,"a\nb\nc"') + row(","))
    assert read.rejections == [(5, Reason.EMPTY.value)]


def test_a_row_of_several_lines_is_rejected_as_one() -> None:
    read = Read(b"client_id,code,note\n" + row(b',"a\nb\nc"') + row("X1,"))
    assert read.codes == ["X1"]
    assert read.rejections == [(2, Reason.EMPTY.value)]


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        (b"", "has no header: it is empty"),
        (b"\n\n", "has no header: it is empty"),
        (b"code\n", "the first row has 'code'; understood for the code: code, codes, coupon code, "),
        (b"client_id\n", "discount code; understood for the client: client_id, client"),
        (b"Klient;Gutscheincode\n", "the first row has 'Klient', 'Gutscheincode': is the header line missing?; under"),
        (b"\xff\n", "needs the columns 'code' and 'client_id'; the first row has '�': is the header line missing?"),
        (b'"client_id,code\n', "the quotes of the first line do not match"),
        (row("X1"), f"the first row has '{A}', 'X1'"),
        (b"x" * 100_000, "the first line is over 65,536 bytes"),
    ],
)
def test_an_invalid_header_is_refused_with_what_it_has(data: bytes, advice: str) -> None:
    with pytest.raises(HeaderRowError, match=r"^the file (needs|has no header)") as refused:
        Read(data)
    assert advice in str(refused.value)


def test_a_client_is_not_asked_for_where_it_is_given() -> None:
    with pytest.raises(HeaderRowError) as refused:
        Read(b"client_id,nr\n", client_id=A)
    assert str(refused.value) == (
        "the file needs a column 'code'; the first row has 'client_id', 'nr'; understood for the code: code, codes,"
        " coupon code, voucher code, promo code, discount code"
    )
    assert not refused.value.needs_client


@pytest.mark.parametrize("client", ["client_id", "clientid", "Client ID", "CLIENT-ID", "client", " Client "])
@pytest.mark.parametrize("code", ["code", "Code", "CODES", "Coupon code", "voucher_code"])
def test_a_column_may_be_spelled_as_people_do(client: str, code: str) -> None:
    assert Read(f"{code},note,{client}\nX1,n,{A}\n".encode()).codes == ["X1"]


def test_the_best_name_counts_where_several_columns_could_be_meant() -> None:
    assert Read(f"client,codes,code,client_id\nacme,C0,X1,{A}\n".encode()).codes == ["X1"]


def test_a_header_with_a_duplicate_column_is_refused() -> None:
    with pytest.raises(HeaderRowError, match="more than one column 'code'"):
        Read(b"client_id,code,Code\n")


def test_a_file_without_a_client_column_uses_the_given_client() -> None:
    read = Read(b"n,code\n1,X1\n2,X2\n3,\n", client_id=A)
    assert read.codes == ["X1", "X2"]
    assert read.csv.clients.ids == [A]
    assert read.rejections == [(4, Reason.EMPTY.value)]


def test_a_client_may_be_a_text_or_a_uuid_in_any_form() -> None:
    lines = f"client_id,code\nband-42,X1\n\u00a0band-42\u200b,X2\n{{{A}}},X3\n{A.hex},X4\n,X5\na\u202eb,X6\n"
    read = Read(lines.encode())
    band = id_of("band-42", INSTALLATION).uuid
    assert [row[1] for row in read.rows] == [band, band, A, A]
    assert read.csv.clients.texts == {band: "band-42"}
    assert read.rejections == [(6, Reason.NO_CLIENT.value), (7, Reason.BAD_CLIENT_ID.value)]


def test_rows_that_name_no_client_are_of_the_default() -> None:
    read = Read(HEADER + row("X1", B) + b",X2\n" + row("X3", A), default=A)
    assert [(row[1], row[3]) for row in read.rows] == [(B, "X1"), (A, "X2"), (A, "X3")]
    assert Read(b"code\nX1\n", default=A).csv.clients.ids == [A]
    # A key's own client needs no registration, so its text is not asked for.
    band = id_of("band-42", INSTALLATION).uuid
    assert Read(HEADER + b"band-42,X1\n", client_id=band, default=A).csv.clients.texts == {}


def test_rejected_rows_are_listed_in_the_order_of_lines() -> None:
    read = Read(HEADER + row("X1") + row("") + row("X2"))
    read.csv.reject_rows(2, [Rejection(2, "unknown"), Rejection(4, "unknown")])
    assert [rejection.line for rejection in read.csv.rejections] == [2, 3, 4]
    assert (read.csv.accepted, read.csv.rejected) == (0, 3)


def test_rows_of_other_clients_are_rejected() -> None:
    read = Read(HEADER + row("X1") + row("X2", B) + b",X3\n" + row("X4"), client_id=A)
    assert read.codes == ["X1", "X3", "X4"]
    assert read.rejections == [(3, Reason.OTHER_CLIENT.value)]


def test_all_rejections_are_counted_but_only_the_first_are_listed() -> None:
    read = Read(HEADER + row("") * (MAX_REJECTIONS + 5))
    assert read.csv.rejected == MAX_REJECTIONS + 5
    assert len(read.rejections) == MAX_REJECTIONS


def test_too_many_clients_are_refused() -> None:
    lines = b"".join(row("X", UUID(int=number)) for number in range(MAX_CLIENTS))
    assert len(Read(HEADER + lines).csv.clients.ids) == MAX_CLIENTS
    with pytest.raises(TooManyClientsError, match="more than 10,000 clients"):
        Read(HEADER + lines + row("X", A))


def is_code(text: str) -> bool:
    return first_unseen(trimmed(text), spaces=True) is None and not text.startswith("=") and bool(trimmed(text))


good_code = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cc", "Cs")), min_size=1, max_size=40
).filter(is_code)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B]), good_code), max_size=20), st.integers(1, 200))
def test_rows_of_the_csv_module_are_parsed(rows: list[tuple[UUID, str]], block: int) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["client_id", "code"], *rows])
    read = Read(text.getvalue().encode(), block=block)
    assert [(client, code) for _, client, _, code in read.rows] == [(client, trimmed(code)) for client, code in rows]


junk = st.one_of(
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"").replace(b'"', b"")),
    st.sampled_from([str(A).encode(), row('"')[:-1], row('"x"y')[:-1], b",", b"," * 9, b"\\", b"\\.", b"\x00"]),
)


@settings(deadline=None)
@given(st.lists(st.one_of(st.just(None), junk), max_size=25), st.integers(1, 300))
def test_junk_never_costs_a_valid_row_in_any_blocks(lines: list[bytes | None], block: int) -> None:
    good = [f"GOOD{number}" for number, line in enumerate(lines) if line is None]
    data = HEADER + b"".join(
        row(f"GOOD{number}") if line is None else line + b"\n" for number, line in enumerate(lines)
    )
    read = Read(data, block=block)
    assert [code for code in read.codes if code.startswith("GOOD")] == good
    whole = Read(data)
    assert (read.rows, read.rejections) == (whole.rows, whole.rejections)


@settings(deadline=None)
@given(st.lists(st.sampled_from([b'"', b",", b"\n", b"X", str(A).encode(), b"\r", b" ", b"\xff"]), max_size=60),
       st.integers(1, 40))  # fmt: skip
def test_any_bytes_give_the_same_result_in_any_blocks(parts: list[bytes], block: int) -> None:
    data = HEADER + b"".join(parts)
    whole, cut = Read(data), Read(data, block=block)
    assert (whole.rows, whole.rejections) == (cut.rows, cut.rejections)
