"""Load drivers: wrk if it is installed, otherwise a bundled driver that needs only Python."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit
from uuid import UUID

from loadtest.processes import python_module

SCRIPT: Final = Path(__file__).with_name("redeem.lua")
REDEEM_PATH: Final = "/api/v1/code/redeem"
ISSUE_PATH: Final = "/coupon.CouponService/IssueCoupon"


class DriverError(Exception):
    """The load could not be sent. The message contains the output of the driver."""


@dataclass(frozen=True, slots=True)
class Target:
    """A pool to redeem from; in a URL with {client} whatever id takes its place."""

    batch_id: UUID
    client_id: UUID


@dataclass(frozen=True, slots=True)
class Load:
    """The requests to send. Each has a new customer unless `customer` is given; requests to ISSUE_PATH have none.

    A URL with {client} is that of a member, the client of each target, and asks for one point.
    """

    url: str
    targets: Sequence[Target]
    seconds: float
    connections: int = 64
    api_key: str | None = None
    per_target: int = 0
    """Requests sent to each target before the next one; 0: choose a random target for each request."""
    customer: UUID | None = None
    keys: bool = False
    coupon: bool = False
    """The URL is that of a coupon use; the targets name the client."""
    texts: bool = False
    """New customers have texts as ids, as long as a UUID."""
    think_ms: int = 0
    """Mean pause of a connection between a response and its next request."""
    run: str = field(default_factory=lambda: os.urandom(4).hex())


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of a load. `refused`: responses with a status of 400 or more."""

    requests: int
    refused: int
    seconds: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    socket_errors: int
    driver_cpu_s: float

    @property
    def granted(self) -> int:
        return self.requests - self.refused

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds


def path_of(load: Load) -> str:
    """Return path and query of the requests."""
    parts = urlsplit(load.url)
    return (parts.path or REDEEM_PATH) + (f"?{parts.query}" if parts.query else "")


class Driver(Protocol):
    """Sends a load. Raises DriverError."""

    name: str

    async def send(self, load: Load) -> Sent: ...


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def _run(command: Sequence[str]) -> tuple[str, float]:
    before = _children_cpu_s()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    text = output.decode(errors="replace")
    if process.returncode != 0 or "RESULT " not in text:
        raise DriverError(f"{command[0]} ended with {process.returncode}:\n{text[-2000:]}")
    return text.partition("RESULT ")[2].split("\n", 1)[0], _children_cpu_s() - before


def _sent(line: str, cpu_s: float) -> Sent:
    result = Sent(**json.loads(line), driver_cpu_s=cpu_s)
    if result.requests == 0:
        raise DriverError(f"no response received: {line}")
    return result


class WrkDriver:
    """wrk with a script. One thread sends more than any server here can handle."""

    def __init__(self, program: str) -> None:
        self._program = program
        self.name = "wrk"

    async def send(self, load: Load) -> Sent:
        with tempfile.NamedTemporaryFile("w", prefix="targets-", suffix=".txt") as targets:
            targets.writelines(f"{target.batch_id} {target.client_id}\n" for target in load.targets)
            targets.flush()
            seconds = max(1, round(load.seconds))
            command = [
                self._program, "-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(SCRIPT),
                load.url.replace("{client}", "x"), "--", path_of(load), targets.name, str(load.per_target),
                str(load.customer or "-"), "1" if load.keys else "0", str(load.think_ms), load.run,
                load.api_key or "-", "1" if load.coupon else "0", "1" if load.texts else "0",
            ]  # fmt: skip
            return _sent(*await _run(command))


class BundledDriver:
    """The asyncio driver in a process of its own. It uses several times the CPU time of wrk."""

    name = "bundled asyncio driver (wrk is not installed; the rates are lower than the servers can reach)"

    async def send(self, load: Load) -> Sent:
        parts = urlsplit(load.url)
        options = {
            "host": parts.hostname, "port": parts.port, "path": path_of(load),
            "targets": [[str(target.batch_id), str(target.client_id)] for target in load.targets],
            "seconds": load.seconds, "connections": load.connections, "api_key": load.api_key,
            "per_target": load.per_target, "customer": str(load.customer) if load.customer else None,
            "keys": load.keys, "coupon": load.coupon, "texts": load.texts, "think_ms": load.think_ms, "run": load.run,
        }  # fmt: skip
        with tempfile.NamedTemporaryFile("w", prefix="load-", suffix=".json") as file:
            json.dump(options, file)
            file.flush()
            return _sent(*await _run(python_module("loadtest.asyncio_driver", file.name)))


def best_driver() -> Driver:
    """Return wrk if it is installed, otherwise the bundled driver."""
    program = shutil.which("wrk")
    return WrkDriver(program) if program else BundledDriver()
