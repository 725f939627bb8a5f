"""GET /c/{campaign_id}: the self-contained page where customers wait for a public campaign and get their codes."""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

import orjson
from starlette.responses import Response

from issuer.campaigns.counters import read_available_counters
from issuer.campaigns.feeds import FeedUpdate
from issuer.http.auth import Access
from issuer.http.campaigns.events import show_tick, visible_campaign
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.headers import inline_headers
from issuer.names import visible

PATH: Final = "/c/{campaign_id}"


@cache
def _page() -> tuple[Template, dict[str, str]]:
    """Return the page and its headers."""
    text = files("issuer.http.campaigns").joinpath("page.html").read_text(encoding="utf-8")
    return Template(text), inline_headers(text)


async def get_page(context: RequestContext) -> Response:
    """Return the page of a public campaign. Any other campaign is a 404, for every caller."""
    campaign = await visible_campaign(context, public_only=True)
    (counters,) = await read_available_counters(context.services.stores, [campaign])
    page, headers = _page()
    # Escaped so that the data cannot close the script element that contains them.
    data = orjson.dumps({"id": campaign.id, **show_tick(FeedUpdate(counters))}).decode().replace("<", "\\u003c")
    text = page.substitute(name=escape(visible(campaign.batch.name)), data=data)
    return Response(text, media_type="text/html", headers=headers)


OPERATIONS = (Operation("GET", PATH, get_page, Access.PUBLIC, takes_slot=False),)
