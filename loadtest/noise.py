"""One tenant that does all it may at once, until it is stopped: the noise of `loadtest.noisy_neighbour`.

Run as ``python -m loadtest.noise options.json``. It prints the answers to each of its activities as one line of JSON
when SIGTERM stops it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from loadtest.drivers import REDEEM_PATH

ANNOUNCED_BYTES: Final = 1_000_000_000
SLOW_BYTES_PER_S: Final = 18_000
UPLOAD_BEGINS: Final = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
IDLE_CONNECTIONS: Final = 1_500


@dataclass(frozen=True, slots=True)
class NoiseOptions:
    """Where the noise is sent to, from which address it comes, and the keys and objects of its tenant."""

    host: str
    port: int
    source: str
    admin_key: str
    redeem_key: str
    public_key: str
    batch_id: str
    client_id: str
    campaign_id: str


class NoisyTenant:
    """The activities. Each repeats one request on each of its connections and counts the answers."""

    def __init__(self, options: NoiseOptions, client: httpx.AsyncClient) -> None:
        self._options = options
        self._client = client
        self.answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        admin = {"Authorization": f"Bearer {options.admin_key}"}
        batch = f"/api/v1/batches/{options.batch_id}"
        generate = batch + "/codes/generate"
        far = {"name": "Far", "starts_at": "9999-12-31T23:59:59.999999Z", "ends_at": "9999-12-31T23:59:59.999999Z"}
        wrong = {"params": {"code": "WRONG"}, "headers": {"Authorization": f"Bearer {options.public_key}"}}
        redeem = {"json": dict.fromkeys(("clientid", "customerid"), options.client_id) | {"batchid": options.batch_id}}
        redeem["headers"] = {"Authorization": f"Bearer {options.redeem_key}"}
        campaign = {"name": "Noise", "total": 100_000, "starts_at": "2020-01-01T00:00:00Z"}
        rows = "client_id,code\n" + "".join(f"{options.client_id},NOISE-{number}\n" for number in range(50_000))
        self._activities: list[tuple[str, int, Callable[[], Awaitable[str]]]] = [
            ("slow uploads", 12, self._slow_upload),
            ("slow reports", 8, self._slow_report),
            ("streams", 1_000, self._stream),
            ("idle connections", IDLE_CONNECTIONS, self._idle),
            ("large jobs", 2, self._request("POST", generate, headers=admin, json={"count": 1_000_000})),
            ("jobs", 4, self._request("POST", generate, headers=admin, json={"count": 10_000})),
            ("campaigns", 4, self._request("POST", "/api/v1/campaigns", headers=admin, json=campaign)),
            ("uploads", 4, self._request("POST", "/api/v1/codes/upload", headers=admin, data={"batch_name": "Noise"},
                                         files={"file": ("codes.csv", rows)})),
            ("lists", 8, self._request("GET", "/api/v1/batches", headers=admin)),
            ("reports", 4, self._request("GET", "/api/v1/reports/redemptions", headers=admin)),
            ("changes", 8, self._request("PATCH", batch, headers=admin, json={"rules": {"maxpercustomer": 5}})),
            ("wrong codes", 16, self._request("GET", "/coupon/consume/", **wrong)),
            ("far dates", 4, self._request("POST", "/api/v1/batches", headers=admin, json=far)),
            ("redemptions", 16, self._request("POST", REDEEM_PATH, **redeem)),
        ]  # fmt: skip

    async def run(self) -> None:
        """Do everything until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, connections, act in self._activities:
                for _ in range(connections):
                    group.create_task(self._repeat(name, act))

    async def _repeat(self, name: str, act: Callable[[], Awaitable[str]]) -> None:
        while True:
            try:
                answer = await act()
            except (OSError, httpx.HTTPError, asyncio.IncompleteReadError) as error:
                answer = type(error).__name__
            self.answers[name][answer] += 1
            if answer[:1] not in ("2", "4"):
                await asyncio.sleep(0.2)
            elif answer.startswith("429"):
                # A tenant that obeyed Retry-After would make no noise.
                await asyncio.sleep(0.05)

    def _request(self, method: str, path: str, **options: object) -> Callable[[], Awaitable[str]]:
        async def send() -> str:
            response = await self._client.request(method, path, **options)  # type: ignore[arg-type]
            return str(response.status_code)

        return send

    async def _open(self, head: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        options = self._options
        reader, writer = await asyncio.open_connection(
            options.host, options.port, local_addr=(options.source, 0), limit=4_096
        )
        writer.write(head.encode())
        return reader, writer

    def _head(self, method: str, path: str, *lines: str) -> str:
        key = f"Authorization: Bearer {self._options.admin_key}"
        return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {self._options.host}", key, *lines, "", ""])

    async def _slow_upload(self) -> str:
        """Send an upload at SLOW_BYTES_PER_S until the server answers."""
        head = self._head(
            "POST", "/api/v1/codes/upload", "Content-Type: multipart/form-data; boundary=x",
            f"Content-Length: {ANNOUNCED_BYTES}",
        )  # fmt: skip
        reader, writer = await self._open(head + UPLOAD_BEGINS)
        try:
            answer = asyncio.create_task(reader.readline())
            while not answer.done():
                writer.write(b"x" * (SLOW_BYTES_PER_S // 10))
                await asyncio.wait([answer], timeout=0.1)
            return _status(answer.result())
        finally:
            writer.close()

    async def _slow_report(self) -> str:
        """Read a report as slowly as the server allows."""
        reader, writer = await self._open(self._head("GET", "/api/v1/reports/redemptions"))
        try:
            line = await reader.readline()
            while await reader.read(SLOW_BYTES_PER_S // 10):
                await asyncio.sleep(0.1)
            return _status(line)
        finally:
            writer.close()

    async def _stream(self) -> str:
        path = f"/api/v1/campaigns/{self._options.campaign_id}/events"
        reader, writer = await self._open(self._head("GET", path))
        try:
            line = await reader.readline()
            while await reader.read(4_096):
                pass
            return _status(line)
        finally:
            writer.close()

    async def _idle(self) -> str:
        """Hold a connection for as long as the server keeps it."""
        reader, writer = await self._open("")
        try:
            return _status(await reader.readline())
        finally:
            writer.close()


def _status(line: bytes) -> str:
    return line.split(b" ")[1].decode() if line.startswith(b"HTTP/") else "closed"


async def make_noise(options: NoiseOptions) -> dict[str, dict[str, int]]:
    transport = httpx.AsyncHTTPTransport(local_address=options.source, limits=httpx.Limits(max_connections=200))
    url = f"http://{options.host}:{options.port}"
    async with httpx.AsyncClient(base_url=url, transport=transport, timeout=60) as client:
        tenant = NoisyTenant(options, client)
        noise = asyncio.create_task(tenant.run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, noise.cancel)
        print("READY", flush=True)
        with suppress(asyncio.CancelledError):
            await noise
        return {name: dict(answers) for name, answers in tenant.answers.items()}


if __name__ == "__main__":
    # The noise is to reach the server, not to keep the processors from it.
    os.nice(10)
    print("RESULT", json.dumps(asyncio.run(make_noise(NoiseOptions(**json.loads(Path(sys.argv[1]).read_text()))))))
