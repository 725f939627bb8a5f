"""Calls of POST /coupon.CouponService/IssueCoupon."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from typing import Final

from issuer.http.rpc.coupon.coupon_pb2 import IssueCouponRequest
from tests.differential.case import Draw, RequestDraft
from tests.differential.odd_json import Members, members_of, text_of
from tests.differential.redeem_cases import key_header

_PASSED: Final = re.compile(rb"-?0+")

PATH = b"/coupon.CouponService/IssueCoupon"

KEYS = {
    "redeem": 40, "acme redeem": 15, "boreal redeem": 4, "all": 5, "admin": 3, "acme public": 3, "limited": 3,
    "limited admin": 1,
    "revoked": 2, "unknown": 2, "none": 12,
}  # fmt: skip
CAMPAIGNS = {"open": 40, "public": 25, "few": 5, "later": 4, "paused": 4, "ended": 4, "unknown": 4, "odd": 4}
ODD_IDS = ("", "x", "{}", "aaaaaaaa00004000800000000000001", "\u00e9", " ", "00000000-0000-0000-0000-000000000000")


def good_request(draw: Draw) -> tuple[RequestDraft, Members]:
    """A Connect call, JSON or binary, and the members of the message in JSON."""
    name = draw.weighted(CAMPAIGNS)
    campaign = draw.one_of((*ODD_IDS, draw.uuid())) if name == "odd" else draw.preloaded.campaigns[name]
    if draw.happens(0.1):
        campaign = campaign.upper()
    request = RequestDraft(PATH, [], b"")
    key_header(draw, request, KEYS)
    if draw.happens(0.3):
        request.headers.append((b"Idempotency-Key", b"issue-%d" % draw.recent(40, 5)))
    members = members_of(**{draw.one_of(("campaignId", "campaignId", "campaign_id")): campaign})
    if draw.happens(0.65):
        request.headers.append((b"Content-Type", b"application/json"))
        request.body = text_of(members)
    else:
        request.headers.append((b"Content-Type", b"application/proto"))
        request.body = IssueCouponRequest(campaign_id=campaign).SerializeToString()
        if draw.happens(0.15):
            request.body = odd_message(draw, request.body)
    if draw.happens(0.3):
        request.headers.append((b"Connect-Protocol-Version", b"1"))
    if draw.happens(0.2):
        request.headers.append((b"Connect-Timeout-Ms", b"60000"))
    return request, members


def odd_message(draw: Draw, message: bytes) -> bytes:
    """A binary message that means the same, nearly the same, or nothing."""
    return draw.one_of((
        b"", message + message, message + b"\x10\x01", b"\x10\x01" + message, message + b"\x0a\x00",
        message[:-1], message + b"\x00",
        message + b"\xff", b"\x0a\xff", b"\x0a\x01\xff", b"\x08\x01", message + b"\x12\x02\x08\x01",
        b"\x0b\x0c", b"{}", b"\x0a\x03\xed\xa0\x80",
        message + b"\x1a\x03abc", b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", b"\x00" * 40, message + b"\x0b",
    ))  # fmt: skip


def odd_timeout(draw: Draw, request: RequestDraft) -> None:
    """Add a time-out that has passed, one that never passes, or text that is none: others depend on the machine."""
    values = (
        b"0", b"0", b"00", b"0000000000", b"000060000", b"9999999999", b"99999999999", b"-1", b"+60000",
        b"60000 ", b"6e4", b"60000.0",
        b"", b"x", b"60_000", b"\xd9\xa6\xd9\xa0", b"60000\xa0", b"0x10", b"9" * 30, b" ", b"6 0", b"-0",
    )  # fmt: skip
    request.without(b"connect-timeout-ms")
    request.headers += [(b"Connect-Timeout-Ms", draw.one_of(values)) for _ in range(2 if draw.happens(0.12) else 1)]


def settle_timeout(request: RequestDraft) -> None:
    """Replace a time-out of 0 in a call that is left to the Connect library.

    Whether the library's timer ends such a call before or after Redis has issued a code depends on the machine.
    """
    if is_ordinary(request):
        return
    for place, (name, value) in enumerate(request.headers):
        if name == b"Connect-Timeout-Ms" and _PASSED.fullmatch(value.strip()) is not None:
            request.headers[place] = (name, b"60000")


def is_ordinary(request: RequestDraft) -> bool:
    """Whether the call has each header of the Connect protocol once at most, in its usual form."""
    names = [name.lower() for name, _ in request.headers]
    values = {name.lower(): value for name, value in request.headers}
    return (
        max(map(names.count, (b"content-type", b"connect-timeout-ms", b"connect-protocol-version"))) <= 1
        and values.get(b"content-type") in (b"application/json", b"application/proto")
        and values.get(b"connect-protocol-version", b"1") == b"1"
        and b"content-encoding" not in values
    )


def odd_protocol_version(draw: Draw, request: RequestDraft) -> None:
    request.without(b"connect-protocol-version")
    values = (b"1", b"2", b"", b"01", b"1 ", b"1\xa0", b"x", b"\xff")
    request.headers += [
        (b"Connect-Protocol-Version", draw.one_of(values)) for _ in range(2 if draw.happens(0.2) else 1)
    ]


def odd_encoding(draw: Draw, request: RequestDraft) -> None:
    """A compressed body, or one that only says so."""
    coding = draw.one_of((b"gzip", b"gzip", b"identity", b"br", b"zstd", b"", b"GZIP"))
    request.headers.append((b"Content-Encoding", coding))
    if draw.happens(0.6):
        request.body = gzip.compress(request.body, mtime=0)
    if draw.happens(0.2):
        request.headers.append((b"Accept-Encoding", b"gzip"))


def grpc_web(draw: Draw, request: RequestDraft) -> None:
    """The message in an envelope."""
    name = draw.one_of(
        (b"application/grpc-web", b"application/grpc-web+proto", b"application/grpc-web+json", b"application/grpc")
    )
    request.put((b"Content-Type", name), (b"TE", b"trailers"))
    flag = draw.one_of((b"\x00", b"\x00", b"\x00", b"\x01", b"\x80"))
    request.body = flag + len(request.body).to_bytes(4, "big") + request.body


ODD_CALLS: Final[dict[Callable[[Draw, RequestDraft], None], int]] = {
    odd_timeout: 10,
    odd_protocol_version: 5,
    odd_encoding: 3,
    grpc_web: 2,
}
