"""Odd credentials, idempotency keys and other headers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Final

from tests.differential.case import Draw, Header, RequestDraft

UNKNOWN_SECRET: Final = b"isk_" + b"0" * 43


def bearer(secret: bytes) -> Header:
    return (b"Authorization", b"Bearer " + secret)


def odd_authorization(draw: Draw, request: RequestDraft) -> None:
    """One header in another form, or several."""
    sent = next((value for name, value in request.headers if name == b"Authorization"), b"Bearer " + UNKNOWN_SECRET)
    key = sent.removeprefix(b"Bearer ")
    name = draw.one_of((b"Authorization", b"authorization", b"AUTHORIZATION", b"AuThOrIzAtIoN"))
    request.without(b"authorization")
    if draw.happens(0.35):
        first, second = draw.one_of(_pairs(key))
        request.headers += [(name, first), (draw.one_of((name, b"Authorization")), second)]
        if draw.happens(0.5):
            # Not next to each other.
            request.headers.append(request.headers.pop(-2))
    else:
        request.headers.append((name, draw.one_of(_forms(key))))


def _forms(key: bytes) -> tuple[bytes, ...]:
    basic = b64encode(b":" + key)
    return (
        b"bearer " + key, b"BEARER " + key, b"bEaReR " + key, b"Bearer  " + key, b"Bearer\t" + key, b"Bearer \t" + key,
        b"Bearer " + key + b" ", b"Bearer " + key + b"\t", b"\tBearer " + key, b"  Bearer " + key, b"Bearer" + key,
        b"Bearer", b"Bearer ", b"bearer", b"", b" ", key, key + b" ", b" " + key, b"Basic " + basic, b"Basic " + key,
        b"basic " + basic, b"Token " + key, b"Digest x", b"Bearer: " + key, b"Bearer=" + key, b"Bearer\xa0" + key,
        b"Bearer \xa0" + key, b"Bearer " + key + b"\xa0", b"\xa0" + key, key + b"\xa0", b"\xa0Bearer " + key,
        b"Bearer " + key + b"\x85", b"Bearer " + key + b"\xff", b"\xff", b"Bearer \xff", b"\xc3\xa9", key + b"\xc2\xa0",
        b"Bearer \xc2\xa0" + key, b"Bearer " + key + b", Bearer " + key, b"Bearer " + key + b" " + key,
        b'Bearer "' + key + b'"', b"Bearer " + key.upper(), b"Bearer " + key[:-1], b"Bearer " + key + b"=",
        b"Bearer x", b"x", b"Bearer Bearer " + key, b"Bearer " + b"k" * 128, b"Bearer " + b"k" * 129,
        b"Bearer " + b"k" * 4_000, b"Bearer\x0b" + key, b"Bearer \x1f" + key, b"Bearer \x00" + key, key + b"\x1c",
        b"negotiate", b"B\xc3\xa9arer " + key, b"Bearer\xc2\x85" + key,
    )  # fmt: skip


def _pairs(key: bytes) -> tuple[tuple[bytes, bytes], ...]:
    good = b"Bearer " + key
    return (
        (good, good),
        (good, b"Bearer " + UNKNOWN_SECRET),
        (b"Bearer " + UNKNOWN_SECRET, good),
        (good, b""),
        (b"", good),
        (good, key),
        (key, good),
        (good, b"Basic " + b64encode(b":" + key)),
        (b"Basic eA==", good),
        (b"", b""),
        (b"\xff", good),
        (good, b"\xa0"),
    )


def odd_idempotency_key(draw: Draw, request: RequestDraft) -> None:
    """One header in another form, or several."""
    given = next(
        (value for name, value in request.headers if name == b"Idempotency-Key"), b"odd-%d" % draw.recent(9, 4)
    )
    name = draw.one_of((b"Idempotency-Key", b"idempotency-key", b"IDEMPOTENCY-KEY"))
    request.without(b"idempotency-key")
    if draw.happens(0.3):
        pair = draw.one_of(
            ((given, given), (given, b"other"), (given, b""), (b"", given), (b"", b""), (b"\xff", given))
        )
        request.headers += [(name, value) for value in pair]
    else:
        request.headers.append((name, draw.one_of(_keys(given))))


def _keys(given: bytes) -> tuple[bytes, ...]:
    return (
        b"", b" ", b"\t", b" " + given, given + b" ", given + b"\t", b"\xa0" + given, given + b"\xa0", b"\xa0",
        given + b"\xff",
        given + b"\xc3\xa9", b"\xc2\xa0" + given, given + b"\x85", given + b"\t" + given, given + b" " + given,
        b"~", b'"' + given + b'"',
        b"x" * 255, b"x" * 256, b"x" * 4_000, given + b"\x7f", given + b"\x01", b"0", b"null", given.upper(),
        given + b"," + given,
    )  # fmt: skip


ODD_CONTENT_TYPES: Final = (
    b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8", b"APPLICATION/JSON",
    b"application/json; charset=UTF-8", b"application/json; charset=latin-1", b"application/json; charset=utf-16",
    b"application/json;", b"application/json; x=y", b"application/json ; charset=utf-8",
    b'application/json; charset="utf-8"',
    b" application/json ", b"application/json\xa0", b"application/json\xff", b"application/json, application/json",
    b"application/x-www-form-urlencoded", b"application/x-www-form-urlencoded; charset=utf-8", b"text/plain",
    b"text/json",
    b"application/problem+json", b"multipart/form-data; boundary=b", b"Multipart/Form-Data; boundary=b",
    b"multipart/form-data",
    b"multipart/mixed; boundary=b", b"", b"*/*", b"json", b"application/proto", b"application/connect+json",
    b"application/grpc", b"application/grpc-web", b"application/grpc-web+json", b"application/octet-stream",
)  # fmt: skip


def odd_content_type(draw: Draw, request: RequestDraft) -> None:
    """Another one, none, or two."""
    request.without(b"content-type")
    many = draw.random.choices((0, 1, 2), (2, 7, 1))[0]
    request.headers += [
        (draw.one_of((b"Content-Type", b"content-type")), draw.one_of(ODD_CONTENT_TYPES)) for _ in range(many)
    ]


OTHER_HEADERS: Final[tuple[tuple[Header, ...], ...]] = (
    ((b"X-Odd", b"\xff"),),
    ((b"X-Odd", b"\xc3\xa9"),),
    ((b"X-Odd", b""),),
    ((b"X-\xe9", b"1"),),
    ((b"Cookie", b"a=\xa0\xfe"),),
    ((b"User-Agent", b"\xe9"),),
    ((b"Accept-Encoding", b"gzip, br"),),
    ((b"Accept", b"text/html"),),
    ((b"Content-Encoding", b"gzip"),),
    ((b"Content-Encoding", b"identity"),),
    ((b"Content-Encoding", b"br"),),
    ((b"Content-Encoding", b""),),
    ((b"X-Forwarded-For", b"192.0.2.7"),),
    ((b"Forwarded", b"for=192.0.2.7"), (b"X-Forwarded-For", b"192.0.2.8")),
    ((b"X-Forwarded-For", b"\xff"),),
    ((b"X-Forwarded-Proto", b"https"), (b"X-Forwarded-Host", b"example.org")),
    ((b"X-HTTP-Method-Override", b"GET"),),
    ((b"Origin", b"https://example.org"),),
    ((b"Origin", b"https://example.net"),),
    ((b"Origin", b"https://example.org"), (b"Origin", b"https://example.org")),
    ((b"Origin", b"null"), (b"Access-Control-Request-Method", b"POST")),
    ((b"Content-Length ", b"5"),),
    ((b"Transfer-Encoding", b"identity"),),
    ((b"TE", b"trailers"),),
    ((b"Trailer", b"Authorization"),),
    ((b"Range", b"bytes=0-1"),),
    ((b"If-None-Match", b"*"),),
    ((b"X-Long", b"y" * 3_000),),
    ((b"X-Longer", b"y" * 17_000),),
    ((b"Bad Name", b"1"),),
    ((b"", b"1"),),
)


def odd_header(draw: Draw, request: RequestDraft) -> None:
    """A header that no route under test needs."""
    added = list(draw.one_of(OTHER_HEADERS))
    request.headers = [*added, *request.headers] if draw.happens(0.5) else [*request.headers, *added]


ODD_HEADERS: Final[dict[Callable[[Draw, RequestDraft], None], int]] = {
    odd_authorization: 12,
    odd_idempotency_key: 9,
    odd_content_type: 7,
    odd_header: 6,
}
