"""The answer to a request with `Expect: 100-continue`."""

from __future__ import annotations

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class ExpectingCycle(RequestResponseCycle):
    """uvicorn's cycle of a request whose client waits for a `100 Continue` before it sends the body.

    A final answer without one ends the connection: the client may send the body after it or not (RFC 9110, section
    10.1.1), so what follows could be the body or the next request.
    """

    async def send(self, message: ASGISendEvent) -> None:
        if not self.response_started and self.waiting_for_100_continue and self.more_body and not self.body:
            self.keep_alive = False
        await super().send(message)
