"""A full disk under the append-only file: redemptions are refused, nothing is lost or issued twice."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from issuer.contract.outcomes import Outcome
from issuer.recovery.opening import open_stores
from issuer.settings import Settings
from tests.support.parameters import some_long
from tests.support.recovery import blessed_again, drain, engine_of, make_batch, ready, redeem, seqs, verdict
from tests.support.servers import RedisServer, wait_until

_LIMITED = (
    "import os, resource, signal, sys;"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2);"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


class CrampedRedis(RedisServer):
    """A server whose files cannot grow beyond `limit` bytes, which fails its writes as a full disk does."""

    limit: int | None = 60_000

    def command(self) -> list[str]:
        command = super().command()
        if self.limit is None:
            return command
        return [sys.executable, "-c", _LIMITED, str(self.limit), *command]


@pytest.mark.parametrize("appendfsync", some_long(["always", "everysec"]))
@pytest.mark.long
async def test_a_full_disk_refuses_redemptions_until_there_is_room(
    settings: Settings, tmp_path: Path, appendfsync: str
) -> None:
    with CrampedRedis(tmp_path / "redis", options={"appendfsync": appendfsync}) as server:
        settings = settings.model_copy(update={"redis_url": SecretStr(server.url()), "max_backlog": 5_000})
        async with open_stores(settings) as stores:
            batch_id = await make_batch(stores, 2_000)
            async with engine_of(settings, stores) as engine:
                given: list[str] = []
                async with asyncio.timeout(60):
                    while True:
                        answers = await redeem(engine, batch_id, 20)
                        given += [a.code for a in answers if a.outcome is Outcome.GRANTED]
                        if any(a.outcome is Outcome.NOT_READY for a in answers):
                            break
                assert {a.outcome for a in answers} <= {Outcome.NOT_READY, Outcome.GRANTED}
                process = server.process
                assert process is not None
                if appendfsync == "always":  # the server ends rather than answer for what it cannot write
                    await asyncio.to_thread(lambda: wait_until(lambda: process.poll() is not None, "Redis has ended"))
                server.kill9()
                server.limit = None
                server.start()
                await blessed_again(stores)
                await ready(engine)
                await drain(stores)
                if appendfsync == "always":
                    assert await verdict(stores) == "restart"
                    assert set(given) <= {f"CODE{seq}" for seq in await seqs(stores, "redemptions")}
                    after = await redeem(engine, batch_id, 20)
                    assert {a.outcome for a in after} == {Outcome.GRANTED}
                    assert {a.code for a in after}.isdisjoint(given)
                else:
                    assert await verdict(stores) == "exact"
                    known = {*await seqs(stores, "redemptions"), *await seqs(stores, "quarantined")}
                    assert {int(code.removeprefix("CODE")) for code in given} <= known
