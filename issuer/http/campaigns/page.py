"""GET /c/{campaign_id}: the page of a public campaign, for those who wait for it to begin. It needs no other server."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from string import Template
from typing import Final

import orjson
from starlette.responses import Response

from issuer.campaigns.counters import known_counters
from issuer.campaigns.feeds import FeedUpdate
from issuer.http.campaigns.events import show_tick, visible_campaign
from issuer.http.fields import known_query
from issuer.http.operations import Access, Operation, RequestContext

PATH: Final = "/c/{campaign_id}"


@cache
def _page() -> tuple[Template, str]:
    """The page, and what it may do: run its own script and style, and talk to where it came from."""
    text = files("issuer.http.campaigns").joinpath("page.html").read_text(encoding="utf-8")
    hashes = {tag: _hash(text, tag) for tag in ("style", "script")}
    policy = (
        f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']}; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Template(text), policy


def _hash(text: str, tag: str) -> str:
    """As a content security policy names what stands in the (only) plain tag of that name."""
    inside = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{b64encode(sha256(inside.encode()).digest()).decode()}'"


async def get_page(call: RequestContext) -> Response:
    """A campaign that is not public has no page, whoever asks."""
    known_query(call.request)
    campaign = await visible_campaign(call, public_only=True)
    (counters,) = await known_counters(call.services.stores, [campaign])
    page, policy = _page()
    # Nothing in it may end the element that it stands in.
    data = orjson.dumps({"id": campaign.id, **show_tick(FeedUpdate(counters))}).decode().replace("<", "\\u003c")
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }
    text = page.substitute(name=escape(campaign.batch.name), data=data)
    return Response(text, media_type="text/html", headers=headers)


OPERATIONS = (Operation("GET", PATH, get_page, Access.PUBLIC),)
