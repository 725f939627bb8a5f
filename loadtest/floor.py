"""The floor: the HTTP server alone. It parses the same body and answers with the same size, without any work."""

from __future__ import annotations

import argparse
from typing import Any, Final

import orjson
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

CODE: Final = "FLOOR-0123456789-ABC"
BARE_SERVER: Final[dict[str, Any]] = {
    "host": "127.0.0.1",
    "loop": "uvloop",
    "http": "httptools",
    "ws": "none",
    "access_log": False,
    "log_level": "warning",
    "server_header": False,
    "proxy_headers": False,
    "backlog": 4_096,
    "timeout_keep_alive": 75,
}
"""uvicorn at its fastest: the event loop and parser of the API, without its protocol and middleware."""


async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    assert scope["type"] == "http"
    message = await receive()
    assert message["type"] == "http.request"
    fields = orjson.loads(message["body"])
    fields["batchid"], fields["clientid"], fields["customerid"]
    body = orjson.dumps({"code": CODE})
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
            "trailers": False,
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(app, port=parser.parse_args().port, lifespan="off", **BARE_SERVER)


if __name__ == "__main__":
    main()
