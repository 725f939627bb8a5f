"""uvicorn's cycle of a request and its answer, as this server needs it on the ASGI path."""

from __future__ import annotations

from typing import Any

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class AsgiCycle(RequestResponseCycle):
    """A cycle that sends nothing to a closed connection, and ends one on which a body is uncertain.

    uvicorn marks only the last of several pipelined requests when a connection ends: the answer to an earlier one would
    be written to a closed transport, which raises. A final answer instead of a `100 Continue` ends
    the connection: the client may send the body after it or not (RFC 9110, section 10.1.1), so what follows could be
    the body or the next request.
    """

    async def send(self, message: ASGISendEvent) -> None:
        if self.transport.is_closing():
            self.disconnected = True
        elif not self.response_started and self.waiting_for_100_continue and self.more_body and not self.body:
            self.keep_alive = False
        if message["type"] == "http.response.start" and any(name == b"cache-control" for name, _ in message["headers"]):
            # What the answer says replaces what the server says of every answer.
            self.default_headers = [header for header in self.default_headers if header[0] != b"cache-control"]
        await super().send(message)

    async def receive(self) -> ASGIReceiveEvent:
        if self.disconnected:
            # Refused meanwhile: nothing may follow the refusal.
            self.waiting_for_100_continue = False
        return await super().receive()


class ServedCycles(HttpToolsProtocol):
    """HttpToolsProtocol whose end of a connection reaches the request that is being served.

    uvicorn notifies the last one that arrived. One that later ones wait behind would never know, and go on: a stream of
    events without a listener.
    """

    _served: RequestResponseCycle | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._served = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        served = self._served
        if served is not None and not served.response_complete:
            served.disconnected = True
            served.message_event.set()
