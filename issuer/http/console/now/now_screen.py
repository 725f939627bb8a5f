"""/console/now: what the installation does at this moment, once a second."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from issuer.contract.outcomes import Outcome
from issuer.http.auth import Access
from issuer.http.console.console_visit import open_console
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.series.series_screens import CHARTS
from issuer.http.metrics.exposition import CRASH, INVALID
from issuer.http.metrics.now import NowFeed, NowFigures
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.templates import template
from issuer.http.reading_pace import ReadingPace

PATH: Final = "/console/now"
MAX_STREAM_S: Final = 600.0
"""A stream ends after this time, and its page opens another one, for which its session must still be valid."""
REPEAT_S: Final = 15.0
"""Figures that do not change are sent again after this time: proxies may close connections that are idle for longer."""
_PAGE: Final = ConsolePage("now/now.html", live=True, charts=True, scripts=(CHARTS,))
_FIGURES: Final = "console/now/figures.html"
REASONS: Final = {
    Outcome.KEY_REUSED: "Idempotency-Key used for another request",
    Outcome.UNKNOWN_BATCH: "Unknown batch or coupon",
    Outcome.ENDED: "Ended or expired",
    Outcome.PAUSED: "Paused",
    Outcome.NOT_STARTED: "Not started yet",
    Outcome.REBUILDING: "Rules are being changed",
    Outcome.LIMIT_REACHED: "Limit of the customer reached",
    Outcome.SOLD_OUT: "Sold out",
    Outcome.REFILLING: "Pool is being refilled",
    Outcome.BACKLOG_FULL: "Backlog full",
    Outcome.INCONSISTENT: "Pool inconsistent",
    Outcome.WRONG_PRODUCT: "Coupon of another product",
    Outcome.NOT_READY: "Not ready",
    Outcome.NOT_REPLICATED: "Not replicated",
    Outcome.OVERLOADED: "Overloaded",
    INVALID: "Not valid, or not allowed",
    CRASH: "Failed with an internal error",
}
"""Refusals in words, by outcome."""
_IN_WORDS: Final = {name.lower(): words for name, words in REASONS.items()}


async def get_now(context: RequestContext) -> Response:
    visit = await open_console(context, unbound=True, offline=True)
    figures = await context.services.now.figures()
    return _PAGE.response(visit, figures=rendered(figures))


async def get_events(context: RequestContext) -> Response:
    visit = await open_console(context, unbound=True, offline=True)
    return NowStream(visit.context)


class NowStream(StreamingResponse):
    """The figures as server-sent events. It holds a slot of the address that watches, and ends a slow reader."""

    def __init__(self, context: RequestContext) -> None:
        super().__init__(
            events(context.services.now), media_type="text/event-stream",
            headers={"x-accel-buffering": "no", "cache-control": "no-store"},
        )  # fmt: skip
        self._slots, self._address = context.services.slots, context.address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._slots.streams_of_address.hold((self._address,)):
            await super().__call__(scope, receive, ReadingPace(send))


async def events(feed: NowFeed) -> AsyncIterator[bytes]:
    """Yield an event for each moment that differs from the one before, and again when there was none for REPEAT_S."""
    began_s = sent_s = time.monotonic()
    sent = b""
    async with aclosing(feed.watch()) as moments:
        async for figures in moments:
            now_s, content = time.monotonic(), event(figures)
            if content != sent or now_s - sent_s >= REPEAT_S:
                sent, sent_s = content, now_s
                yield content
            if now_s - began_s >= MAX_STREAM_S:
                return


@lru_cache(maxsize=4)
def rendered(figures: NowFigures) -> str:
    """Return the part of the page that changes. All watchers of a moment share it."""
    now, recorded = datetime.now(UTC), figures.recorded
    pools = [] if recorded is None else [(pool, (pool.empty_at - now).total_seconds()) for pool in recorded.pools]
    reasons = [] if recorded is None else [(_IN_WORDS.get(name, name), rate) for name, rate in recorded.refusals_per_s]
    return template(_FIGURES).render(now=figures, recorded=recorded, pools=pools, reasons=reasons)


@lru_cache(maxsize=4)
def event(figures: NowFigures) -> bytes:
    """Return the event that replaces that part."""
    lines = rendered(figures).splitlines()
    return "".join(f"data: {line}\n" for line in lines if line).encode() + b"\n"


OPERATIONS: Final = (
    Operation("GET", PATH, get_now, Access.PUBLIC, page=True),
    Operation("GET", PATH + "/events", get_events, Access.PUBLIC, page=True, takes_slot=False),
)
