"""A server behind the guard at the socket whose application counts the bytes of bodies."""

from __future__ import annotations

import asyncio
from typing import Any

from issuer.http.edge.limits import EdgeLimits
from issuer.http.edge.protocol import guarded_protocol
from tests.support.edge_server import EdgeServer

Message = dict[str, Any]


class Counting:
    """Answers with the number of body bytes it got; /early without reading; /slow when released."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.broken_off = 0
        self.release = asyncio.Event()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.seen.append(scope["path"])
        size = 0
        if scope["path"] == "/slow":
            await self.release.wait()
        if scope["path"] != "/early":
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.broken_off += 1
                    return
                size += len(message["body"])
                if not message["more_body"]:
                    break
        # Only now: a trailer would have been added by the end of the body.
        self.headers = scope["headers"]
        body = b"%d" % size
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class CountingServer(EdgeServer):
    def __init__(self, limits: EdgeLimits, keep_alive_s: int = 30) -> None:
        self.app = Counting()
        super().__init__(self.app, guarded_protocol(limits), keep_alive_s=keep_alive_s)

    def release(self) -> None:
        """Answer the requests to /slow that wait, and let later ones wait again."""

        def release() -> None:
            self.app.release.set()
            self.app.release = asyncio.Event()

        self.loop.call_soon_threadsafe(release)

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.app.release.set)
        super().__exit__()
