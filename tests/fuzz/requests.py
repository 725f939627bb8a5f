"""Requests that are well-formed, in every framing, and the status that each of them must get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final
from uuid import UUID

COUPON: Final = "FUZZ"


@dataclass(frozen=True, slots=True)
class FuzzTarget:
    """What the requests use: ids of two batches, `counted` for exact counts, `other` for all else, and a key."""

    key: str
    client: UUID
    counted: UUID
    other: UUID


@dataclass(frozen=True, slots=True)
class FuzzRequest:
    """One request on the wire. `status`: what it must be answered with."""

    data: bytes
    status: int
    grants: str = ""
    """What a 200 means for the ledger: `redemption`, `consumption` or nothing."""


OFFERS: Final = (
    (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"),
    (b"Upgrade: websocket", b"Connection: keep-alive, Upgrade"),
    (b"Upgrade: h2c",),
)
TRAILERS: Final = (
    b"X-Trailer: 1", b"Authorization: Bearer x", b"Host: other", b"Expect: 100-continue", b"Upgrade: h2c",
    b"X-Long: " + b"v" * 3_000, b"Idempotency-Key: trailer", b"X-Empty:",
)  # fmt: skip
EXTENSIONS: Final = (b"", b"", b"", b";a", b";a=b", b';a="b c"', b";a;b=1")


def framed(random: Random, lines: list[bytes], body: bytes) -> bytes:
    """The request with its body, by length or in chunks, with or without an offer to upgrade."""
    if random.random() < 0.2:
        lines += random.choice(OFFERS)
    if random.random() < 0.1:
        lines += [b"X-%d: %b" % (number, b"v" * random.randrange(60)) for number in range(random.randrange(90))]
    if body and random.random() < 0.45:
        lines.append(random.choice((b"Transfer-Encoding: chunked", b"transfer-encoding: Chunked ")))
        payload = in_chunks(random, body)
    else:
        if body or random.random() < 0.5:
            lines.append(b"%b: %b%d" % (random.choice((b"Content-Length", b"content-length")), b"0" * 0, len(body)))
        payload = body
    first, rest = lines[0], lines[1:]
    random.shuffle(rest)
    return b"\r\n".join([first, *rest]) + b"\r\n\r\n" + payload


def in_chunks(random: Random, body: bytes) -> bytes:
    pieces, at = [], 0
    while at < len(body):
        size = random.randrange(1, max(2, len(body)))
        chunk = body[at : at + size]
        digits = random.choice((b"%x", b"%X", b"0%x")) % len(chunk)
        pieces.append(digits + random.choice(EXTENSIONS) + b"\r\n" + chunk + b"\r\n")
        at += size
    trailers = random.sample(TRAILERS, random.choice((0, 0, 1, 3)))
    return b"".join(pieces) + b"0\r\n" + b"".join(trailer + b"\r\n" for trailer in trailers) + b"\r\n"


def head_lines(method: bytes, path: bytes, key: str | None) -> list[bytes]:
    lines = [b"%b %b HTTP/1.1" % (method, path), b"Host: issuer"]
    return lines if key is None else [*lines, b"Authorization: Bearer " + key.encode()]


def _redeem(random: Random, target: FuzzTarget, *, batch: UUID, key: str | None, status: int) -> FuzzRequest:
    customer = UUID(int=random.getrandbits(128), version=4)
    body = f'{{"batchid":"{batch}","clientid":"{target.client}","customerid":"{customer}"}}'.encode()
    body += b" " * random.choice((0, 0, 0, 5_000))
    lines = head_lines(b"POST", b"/api/v1/code/redeem", key)
    if status == 200 and random.random() < 0.1:
        lines.append(b"Expect: 100-continue")
    return FuzzRequest(framed(random, lines, body), status, "redemption" if status == 200 else "")


def redeem(random: Random, target: FuzzTarget) -> FuzzRequest:
    return _redeem(random, target, batch=target.counted, key=target.key, status=200)


def redeem_other(random: Random, target: FuzzTarget) -> FuzzRequest:
    return _redeem(random, target, batch=target.other, key=target.key, status=200)


def redeem_without_key(random: Random, target: FuzzTarget) -> FuzzRequest:
    return _redeem(random, target, batch=target.counted, key=random.choice((None, "isk_" + "0" * 43)), status=401)


def consume(random: Random, target: FuzzTarget) -> FuzzRequest:
    path = f"/coupon/consume/?code={COUPON}&client_id={target.client}".encode()
    order = b"order_id=%d" % random.getrandbits(60)
    in_body = random.random() < 0.5
    lines = head_lines(b"POST", path if in_body else path + b"&" + order, target.key)
    return FuzzRequest(framed(random, lines, order if in_body else b""), 200, "consumption")


def live(random: Random, target: FuzzTarget) -> FuzzRequest:
    return FuzzRequest(framed(random, head_lines(b"GET", b"/livez", None), random.choice((b"", b"", b"body"))), 200)


def unknown_path(random: Random, target: FuzzTarget) -> FuzzRequest:
    path = random.choice((b"/nothing", b"/nothing?a=b", b"//livez", b"/livez%2F", b"http://issuer/nothing"))
    return FuzzRequest(framed(random, head_lines(b"POST", path, target.key), b"x" * random.randrange(3_000)), 404)


def wrong_method(random: Random, target: FuzzTarget) -> FuzzRequest:
    return FuzzRequest(framed(random, head_lines(b"PATCH", b"/api/v1/code/redeem", target.key), b"{}"), 405)


def no_json(random: Random, target: FuzzTarget) -> FuzzRequest:
    lines = head_lines(b"POST", b"/api/v1/code/redeem", target.key)
    return FuzzRequest(framed(random, lines, b"}" * random.randrange(1, 300)), 400)


Kind = Callable[[Random, FuzzTarget], FuzzRequest]
KINDS: Final[Mapping[Kind, int]] = {
    redeem: 40, consume: 15, live: 15, unknown_path: 8, redeem_without_key: 8, wrong_method: 4, no_json: 6,
}  # fmt: skip
OTHER_KINDS: Final[Mapping[Kind, int]] = {
    redeem_other: 50, live: 20, unknown_path: 10, redeem_without_key: 10, no_json: 10,
}  # fmt: skip
"""What malformed sessions are made of: what their requests grant is not counted exactly."""


def draw(random: Random, target: FuzzTarget, kinds: Mapping[Kind, int]) -> FuzzRequest:
    return random.choices(list(kinds), list(kinds.values()))[0](random, target)
