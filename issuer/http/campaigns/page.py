"""GET /c/{campaign_id}: the self-contained page where customers wait for a public campaign and get their codes."""

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

from issuer.campaigns.counters import read_available_counters
from issuer.campaigns.feeds import FeedUpdate
from issuer.http.auth import Access
from issuer.http.campaigns.events import show_tick, visible_campaign
from issuer.http.fields import check_query
from issuer.http.operations import Operation, RequestContext

PATH: Final = "/c/{campaign_id}"


@cache
def _page() -> tuple[Template, str]:
    """Return the page and its content security policy: its own script and style, connections to its own origin."""
    text = files("issuer.http.campaigns").joinpath("page.html").read_text(encoding="utf-8")
    hashes = {tag: _hash(text, tag) for tag in ("style", "script")}
    policy = (
        f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']}; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Template(text), policy


def _hash(text: str, tag: str) -> str:
    """Return the CSP source expression for the content of the only `<tag>` without attributes."""
    inside = text.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
    return f"'sha256-{b64encode(sha256(inside.encode()).digest()).decode()}'"


async def get_page(context: RequestContext) -> Response:
    """Return the page of a public campaign. Any other campaign is a 404, for every caller."""
    check_query(context.request)
    campaign = await visible_campaign(context, public_only=True)
    (counters,) = await read_available_counters(context.services.stores, [campaign])
    page, policy = _page()
    # Escaped so that the data cannot close the script element that contains them.
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
