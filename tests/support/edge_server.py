"""uvicorn with the guard at its socket, in a thread of this process, on a free port."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any, Self

import uvicorn
import uvloop

from issuer.http.edge.protocol import GuardedHttpToolsProtocol

STOP_LIMIT_S = 20


class EdgeServer:
    """Serves `app` behind `protocol` for as long as the block lasts. `options` are uvicorn's."""

    def __init__(
        self, app: Any, protocol: type[GuardedHttpToolsProtocol], *, keep_alive_s: int = 30, **options: Any
    ) -> None:
        common: dict[str, Any] = {"ws": "none", "lifespan": "off", "log_config": None, "access_log": False}
        config = uvicorn.Config(app, http=protocol, timeout_keep_alive=keep_alive_s, **(common | options))
        self.server = uvicorn.Server(config)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self.listener.getsockname()[1]
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ready.set()
        await self.server._serve(sockets=[self.listener])

    def __enter__(self) -> Self:
        self.thread.start()
        self.ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(STOP_LIMIT_S)
        self.listener.close()
        assert not self.thread.is_alive(), "the server did not stop"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)
