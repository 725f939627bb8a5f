"""The API as processes: one uvicorn server each, all of which accept from one listening socket.

The parent opens the socket once: connections wait in it while a process is replaced, and a port that is in use is
reported before anything else starts.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import math
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog

from issuer.logs import configure_logs
from issuer.processes.children import Child, ChildError, ChildSpec
from issuer.processes.launch import launch_command
from issuer.settings import Settings, SettingsError, load_settings

log = structlog.get_logger()

BACKLOG: Final = 4_096
KEEP_ALIVE_S: Final = 75
"""Longer than proxies keep idle connections (60 s), so that they do not send into one that is being closed."""
KILL_MARGIN_S: Final = 5.0
MAX_YOUNG_OBJECTS: Final = 10_000


class ListenError(Exception):
    """The API cannot listen on the address. The message says why."""


class PortInUseError(ListenError):
    """Another process listens on the address."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address; port 0 picks a free port. Raises ListenError."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, number)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        if port != 0 and error.errno == errno.EADDRINUSE:
            raise PortInUseError(f"cannot listen on {host}:{port}: another process listens there") from error
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL by which a client on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_api(settings: Settings, listener: socket.socket) -> None:
    """Serve in this process until SIGTERM or SIGINT; requests in flight then have `shutdown_timeout_s`.

    The process exits shortly after that in any case, also without a parent that would kill it.
    """
    import uvicorn

    from issuer.http.app import create_app
    from issuer.http.edge.limits import EdgeLimits
    from issuer.http.edge.protocol import guarded_protocol
    from issuer.http.limiting.connections import ConnectionsByAddress
    from issuer.http.wire import EVERY_ANSWER

    app = create_app(settings)
    _spare_collections()
    protocol = guarded_protocol(
        EdgeLimits.from_settings(settings), app.fast_paths, ConnectionsByAddress(settings, app.count_refusal)
    )
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        headers=list(EVERY_ANSWER),
        # Forwarded addresses are read where rate limits count them, for the fast path and the ASGI path alike.
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout_s),
    )

    class BoundedServer(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.end_streams()
            _exit_after(asyncio.get_running_loop(), settings.shutdown_timeout_s + KILL_MARGIN_S / 2)
            await super().shutdown(sockets)

    try:
        BoundedServer(config).run(sockets=[listener])
    except KeyboardInterrupt:
        # uvicorn raises the signal again after it has stopped cleanly.
        return


def _spare_collections() -> None:
    """Have the garbage collector look at what requests leave, not at the program.

    A full collection of the program alone takes 60 ms, in which no request is answered. Objects of requests in flight
    are no garbage: with the default of 700 new objects each transaction of points was interrupted several times.
    """
    gc.freeze()
    gc.set_threshold(MAX_YOUNG_OBJECTS)


def _exit_after(loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
    """Exit this process after `limit_s` if it still runs then, and log the tasks that it waited for."""

    def end() -> None:
        waiting = [f"{task.get_name()}: {task.get_stack(limit=1)}" for task in asyncio.all_tasks(loop)]
        log.error("API process did not stop in time; exiting", limit_s=limit_s, tasks=waiting)
        os._exit(1)

    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()


async def _answers(listener: socket.socket) -> bool:
    """Whether an API process answers. Connecting is not enough: the socket accepts before any process runs."""
    host, port = listener.getsockname()[:2]
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1" if host == "0.0.0.0" else host, port)
            try:
                writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


def api_spec(settings: Settings, listener: socket.socket, number: int, environment: dict[str, str]) -> ChildSpec:
    """Describe one API process on `listener`. Its settings come from the environment only."""
    argv = [sys.executable, "-m", "issuer.processes.api", "--fd", str(listener.fileno())]
    return ChildSpec(
        name=f"api-{number}",
        command=lambda: launch_command(argv, death_signal=signal.SIGTERM),
        is_ready=lambda: _answers(listener),
        stop_limit_s=settings.shutdown_timeout_s + KILL_MARGIN_S,
        environment=environment,
        descriptors=(listener.fileno(),),
    )


@contextmanager
def shared_metrics(settings: Settings) -> Iterator[dict[str, str]]:
    """Yield the environment in which API processes add up their counters: a directory, removed unless it was set."""
    if settings.metrics_dir is not None:
        yield {"ISSUER_METRICS_DIR": str(settings.metrics_dir)}
        return
    with tempfile.TemporaryDirectory(prefix="issuer-metrics-") as directory:
        yield {"ISSUER_METRICS_DIR": directory}


async def serve(settings: Settings, listener: socket.socket, environment: dict[str, str]) -> None:
    """Keep `workers` API processes running until SIGTERM or SIGINT. Raises ChildError when one keeps crashing."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    failed: asyncio.Future[ChildError] = loop.create_future()
    children = [
        Child(api_spec(settings, listener, number, environment), failed) for number in range(1, settings.workers + 1)
    ]
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.gather(*(child.start() for child in children))
        ends: set[asyncio.Future[Any]] = {stopped, failed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        await asyncio.gather(*(child.stop() for child in children))
    if failed.done():
        raise failed.result()


def main() -> None:
    """Run one API process: ``python -m issuer.processes.api --fd <listening socket>``."""
    parser = argparse.ArgumentParser(
        prog="python -m issuer.processes.api", description="One API process. `issuer serve` and `issuer up` start it."
    )
    parser.add_argument("--fd", type=int, required=True, help="File descriptor of the listening socket.")
    options = parser.parse_args()
    try:
        settings = load_settings()
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    configure_logs(settings.log_level, name="api")
    run_api(settings, socket.socket(fileno=options.fd))


if __name__ == "__main__":
    main()
