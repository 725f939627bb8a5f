"""Requests to POST /api/v1/code/redeem."""

from __future__ import annotations

from tests.differential.case import Draw, RequestDraft
from tests.differential.odd_headers import UNKNOWN_SECRET, bearer
from tests.differential.odd_json import Members, members_of, text_of
from tests.differential.preloaded import ACME, BOREAL, NOT_THERE

PATH = b"/api/v1/code/redeem"

KEYS = {
    "redeem": 60, "acme redeem": 12, "boreal redeem": 4, "all": 5, "admin": 3, "acme public": 3, "limited": 3,
    "limited admin": 1, "enumerating": 2, "revoked": 2, "unknown": 2, "none": 2,
}  # fmt: skip
BATCHES = {"open": 50, "once": 12, "windowed": 12, "small": 5, "later": 3, "paused": 3, "ended": 3, "unknown": 3}


def key_header(draw: Draw, request: RequestDraft, weights: dict[str, int]) -> None:
    """Give the request one of the keys."""
    name = draw.weighted(weights)
    if name == "none":
        return
    secret = UNKNOWN_SECRET if name == "unknown" else draw.preloaded.keys[name].encode()
    request.headers.append(bearer(secret))


def customer_of(draw: Draw) -> str:
    """Return a new customer, or one that nearby cases have too; some have a text."""
    if draw.happens(0.15):
        return draw.one_of((f"customer {draw.recent(10, 6)}", "Zoe\u0308", " anna@example.org\u200b"))
    return draw.uuid() if draw.happens(0.5) else f"dddddddd-0000-4000-8000-{draw.recent(10, 6):012d}"


def good_request(draw: Draw) -> tuple[RequestDraft, Members]:
    """A request in its usual form, for a batch in any state, and the members of its body."""
    batch = draw.preloaded.batches[draw.weighted(BATCHES)]
    client, customer = str(ACME), customer_of(draw)
    request = RequestDraft(PATH, [(b"Content-Type", b"application/json")], b"")
    key_header(draw, request, KEYS)
    if draw.happens(0.3):
        # The same few keys, each with the customer that has the same number: mostly replays.
        number = draw.recent(40, 5)
        request.headers.append((b"Idempotency-Key", b"redeem-%d" % number))
        if draw.happens(0.9):
            batch, customer = draw.preloaded.batches["open"], f"eeeeeeee-0000-4000-8000-{number:012d}"
    if draw.happens(0.1):
        # With a key that is used again: for another client.
        client = draw.one_of((str(BOREAL), NOT_THERE))
    members = members_of(batchid=batch, clientid=client, customerid=customer)
    if draw.happens(0.2):
        draw.random.shuffle(members)
    request.body = text_of(members)
    return request, members
