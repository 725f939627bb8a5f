"""What the routes of FealTY read: bodies as encoding/json of Go reads them, forms, and credentials of browsers."""

from __future__ import annotations

from base64 import b64encode

import pytest

from issuer.http.basic_auth import as_bearer
from issuer.http.loyalty.fealty.account_fields import AccountFields, read_body, read_body_leniently, read_form_fields
from issuer.http.problems.problem import ProblemError
from issuer.http.strict_json import InvalidJsonError

# What Go decodes into the predecessor's struct; the zero value of a field that it leaves alone.
DECODED = [
    (b'{"email":"a@b.c","rewardpoints":5,"marketing":true}', ("a@b.c", 5, True)),
    # The README's own body: the comma behind the last member makes it no JSON.
    (b'{\n    "email": "test@test.com",\n    "rewardpoints": 123,\n    "marketing": false,\n}', ("", 0, False)),
    (b'{"EMAIL":"a@b.c","RewardPoints":5}', ("a@b.c", 5, False)),
    (b'{"email":"a","email":"b"}', ("b", 0, False)),
    (b'{"email":7,"rewardpoints":3}', ("", 3, False)),
    (b'{"email":"a","rewardpoints":"3","marketing":1}', ("a", 0, False)),
    (b'{"email":"a","rewardpoints":1.0}', ("a", 0, False)),
    (b'{"email":"a","rewardpoints":1e2}', ("a", 0, False)),
    (b'{"email":"a","rewardpoints":9223372036854775808}', ("a", 0, False)),
    (b'{"email":"a","rewardpoints":-9}', ("a", -9, False)),
    (b'{"rewardpoints":true,"email":"a"}', ("a", 0, False)),
    (b'{"email":null}', ("", 0, False)),
    (b'{"x":{"email":"in"},"email":"a","rewardpoints":2}', ("a", 2, False)),
    (b'{"email":"a"} x', ("", 0, False)),
    (b'\xef\xbb\xbf{"email":"a"}', ("", 0, False)),
    (b'{"email":"a","rewardpoints":NaN}', ("", 0, False)),
    (b'{"email":"\xff"}', ("\ufffd", 0, False)),
    *((body, ("", 0, False)) for body in (b"[]", b'"x"', b"null", b"")),
]


def test_a_body_is_read_as_the_predecessor_reads_it() -> None:
    for body, (email, points, marketing) in DECODED:
        read = read_body_leniently(body)
        assert (read.email, read.points or 0, read.marketing or False) == (email, points, marketing), body
    assert read_body_leniently(b'{"email":"a"}') == AccountFields("a", None, None), "absent is not zero"
    assert read_body_leniently(b'{"email":"a","rewardpoints":' + b"9" * 5_000 + b"}") == AccountFields("a")
    assert read_body_leniently(b"[" * 50_000) == AccountFields()


def test_a_strict_body_names_what_is_wrong() -> None:
    assert read_body(b'{"email":"a","rewardpoints":5,"marketing":true,"more":1}') == AccountFields("a", 5, True)
    assert read_body(b'{"email":"a","rewardpoints":null}') == AccountFields("a")
    with pytest.raises(InvalidJsonError):
        read_body(b'{"email": "a",}')
    for body in (b'{"email":1}', b'{"rewardpoints":"5"}', b'{"rewardpoints":1.5}', b'{"marketing":1}'):
        with pytest.raises(ProblemError, match="must be"):
            read_body(body)
    for read in (read_body, read_body_leniently):
        with pytest.raises(ProblemError, match="from -1000000000000 to"):
            read(b'{"rewardpoints":1000000000001}')


def test_an_empty_field_of_a_form_is_not_given() -> None:
    full = {"email": " a@b.c ", "points": "-5", "marketing": "true"}
    assert read_form_fields(full) == AccountFields("a@b.c", -5, True)
    assert read_form_fields({"email": "a@b.c", "points": "", "marketing": ""}) == AccountFields("a@b.c")
    for form in ({"points": "1_0"}, {"points": "١"}, {"points": "1.5"}, {"points": "9" * 20}, {"marketing": "perhaps"}):
        with pytest.raises(ProblemError):
            read_form_fields(form)


def test_the_password_of_basic_credentials_is_the_key() -> None:
    def bearer(value: bytes) -> bytes:
        return dict(as_bearer([(b"accept", b"*/*"), (b"authorization", value)]))[b"authorization"]

    assert bearer(b"Basic " + b64encode(b"anna:isk_x:y")) == b"Bearer isk_x:y", "only the name has no colon"
    assert bearer(b"basic  " + b64encode(b":isk_x")) == b"Bearer isk_x"
    for other in (b"Bearer isk_x", b"isk_x", b"Basic", b"Basic !!", b"Basic " + b64encode(b"isk_x")):
        assert bearer(other) == other
