"""The cases of a run: each follows from the seed and its index alone, and from what was preloaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Final

import httptools

from tests.differential import consume_cases, issue_cases, redeem_cases, redemption_cases
from tests.differential.case import Case, Draw, Framing, RequestDraft
from tests.differential.issue_cases import ODD_CALLS, settle_timeout
from tests.differential.odd_framing import ODD_FRAMING
from tests.differential.odd_headers import ODD_HEADERS
from tests.differential.odd_json import odd_text
from tests.differential.preloaded import Preloaded

PRODUCTS: Final = {"redeem": 10, "redemption": 7, "consume": 10, "issue": 9}
_GOOD: Final = {
    "redeem": redeem_cases.good_request,
    "redemption": redemption_cases.good_request,
    "consume": consume_cases.good_request,
    "issue": issue_cases.good_request,
}
_LISTENERS: Final = {"keys": 82, "anonymous": 11, "limited": 7}
ODDITIES: Final = (0.35, 0.45, 0.14, 0.06)
"""How often a request has none, one, two and three of them."""
MAX_PIPELINED: Final = 4
MAX_HEAD_BYTES: Final = 8_192


def make_case(seed: int, index: int, preloaded: Preloaded) -> Case:
    """The case with this index."""
    draw = Draw(Random(f"{seed}:{index}"), index, preloaded)
    listener = draw.weighted(_LISTENERS)
    title, request = _request(draw, listener)
    if draw.happens(0.04):
        return _pipelined(seed, draw, listener, title, request)
    pieces: tuple[bytes, ...] = (request.to_bytes(),)
    if request.trailers or not is_well_formed(request):
        # In pieces it would be a race: the head may be answered before the server refuses the rest.
        pass
    elif draw.happens(0.1):
        pieces = (request.head(), request.payload())
    elif draw.happens(0.05):
        at = draw.random.randrange(1, len(pieces[0]))
        pieces = (pieces[0][:at], pieces[0][at:])
    pieces = tuple(filter(None, pieces))
    probed = bool(request.behind) or request.length is not None or draw.happens(0.1)
    return Case(seed, index, title, listener, pieces, (request.method,), probed, request.behind)


def _pipelined(seed: int, draw: Draw, listener: str, title: str, first: RequestDraft) -> Case:
    """Several requests in one piece. All but the first one are well-formed HTTP: see `Case.behind`."""
    requests, titles = [first], [title]
    for _ in range(draw.random.randrange(1, MAX_PIPELINED)):
        title, request = _request(draw, listener, framed=False)
        while not is_well_formed(request):
            title, request = _request(draw, listener, framed=False)
        requests.append(request)
        titles.append(title)
    data = b"".join(request.to_bytes() for request in requests)
    methods = tuple(request.method for request in requests)
    return Case(seed, draw.index, "; ".join(titles), listener, (data,), methods, True, first.behind)


def is_well_formed(request: RequestDraft) -> bool:
    """Whether a request is one that the server reads to its end."""
    try:
        httptools.HttpRequestParser(object()).feed_data(request.to_bytes())
    except httptools.HttpParserError:
        return False
    except httptools.HttpParserUpgrade:
        # The server ignores the offer.
        plain = replace(request, headers=[header for header in request.headers if header[0].lower() != b"upgrade"])
        return request.method != b"CONNECT" and is_well_formed(plain)
    return len(request.head()) <= MAX_HEAD_BYTES


def _request(draw: Draw, listener: str, *, framed: bool = True) -> tuple[str, RequestDraft]:
    """A request with a title that names its oddities. `framed`: it may be odd in how it is sent."""
    product = draw.weighted(PRODUCTS)
    request, members = _GOOD[product](draw)
    if listener == "limited":
        request.headers.append((b"X-Forwarded-For", b"198.51.100.%d" % (draw.recent(40, 3) % 250)))
    (count,) = draw.random.choices(range(len(ODDITIES)), ODDITIES)
    kinds = {"json": 25, "headers": 30, "call": 25 if product == "issue" else 0, "framing": 22 if framed else 0}
    # Framing comes last: it depends on the size of the body.
    for kind in sorted((draw.weighted(kinds) for _ in range(count)), key=list(kinds).index):
        if kind == "json":
            request.body = odd_text(draw, members)
            request.notes.append("odd json")
            continue
        table = {"headers": ODD_HEADERS, "framing": ODD_FRAMING, "call": ODD_CALLS}[kind]
        oddity = draw.weighted(table)
        oddity(draw, request)
        request.notes.append(oddity.__name__)
    if request.length is not None and request.length.isdigit() and int(request.length) > len(request.body):
        # The server would wait for the rest until the request times out.
        request.length = None
    settle_timeout(request)
    if request.framing is Framing.NONE:
        request.body = b""
    if draw.happens(0.2):
        draw.random.shuffle(request.headers)
    return ", ".join([product, *request.notes]), request


def cases(seed: int, count: int, preloaded: Preloaded) -> Iterator[Case]:
    """The first cases of a seed."""
    for index in range(count):
        yield make_case(seed, index, preloaded)
