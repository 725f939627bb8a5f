"""What a screen needs to know about the visit that it is shown to."""

from __future__ import annotations

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from issuer.operators.role import Role


class Visitor(Protocol):
    """A visit of the console. `client`: the client to which the visitor is bound, by name; None: bound to none.

    `notice`: what the form before has done, in words. `finish` makes a response keep the session, and the notice be
    shown once.
    """

    @property
    def request(self) -> Request: ...
    @property
    def caller_name(self) -> str: ...
    @property
    def role(self) -> Role: ...
    @property
    def client(self) -> str | None: ...
    @property
    def form_token(self) -> str: ...
    @property
    def notice(self) -> str | None: ...
    def finish(self, response: Response) -> Response: ...
