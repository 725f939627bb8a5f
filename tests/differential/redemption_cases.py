"""Requests to POST /api/v1/redemptions."""

from __future__ import annotations

from tests.differential.case import Draw, RequestDraft
from tests.differential.odd_json import Members, text_of
from tests.differential.redeem_cases import good_request as redeem_request

PATH = b"/api/v1/redemptions"


def good_request(draw: Draw) -> tuple[RequestDraft, Members]:
    """A request to redeem, with the fields of this route: of each pair one, or both."""
    request, members = redeem_request(draw)
    request.target = PATH
    fields = {}
    for name, value in members:
        kind = name.strip('"').removesuffix("id")
        for field in draw.one_of(((kind,), (f"{kind}_id",), (kind, f"{kind}_id"))):
            fields[f'"{field}"'] = value
    if draw.happens(0.1):
        fields['"batch"'] = draw.one_of(('"open"', '"nowhere"'))
    members = list(fields.items())
    request.body = text_of(members)
    return request, members
