"""The routes of the member pages."""

from __future__ import annotations

from typing import Final

from issuer.http.auth import Access
from issuer.http.member_pages import overview, profile, rewards, sign_in
from issuer.http.member_pages.visits import PATH
from issuer.http.operations import Handler, Operation


def _page(method: str, rest: str, handler: Handler) -> Operation:
    return Operation(method, PATH + rest, handler, Access.PUBLIC, page=True)


OPERATIONS: Final = (
    _page("GET", "", overview.get_overview),
    _page("GET", "/history", overview.get_history),
    _page("GET", "/rewards/{reward}", rewards.get_reward),
    _page("POST", "/rewards/{reward}", rewards.post_reward),
    _page("POST", "/sign-in", sign_in.post_sign_in),
    _page("GET", "/code", sign_in.get_code),
    _page("POST", "/code", sign_in.post_code),
    _page("GET", "/link/{token}", sign_in.get_link),
    _page("POST", "/link/{token}", sign_in.post_link),
    _page("POST", "/sign-out", sign_in.post_sign_out),
    _page("GET", "/profile", profile.get_profile),
    _page("POST", "/profile", profile.post_profile),
    _page("POST", "/profile/email", profile.post_email),
    _page("GET", "/email", profile.get_email),
    _page("POST", "/email", profile.post_email_code),
    _page("GET", "/data", profile.get_data),
    _page("GET", "/delete", profile.get_delete),
    _page("POST", "/delete", profile.post_delete),
)
