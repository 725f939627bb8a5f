"""One partition of a store, driven script by script: a second spelling of KEYS and ARGV, independent of the engine's.

It uses a plain connection with ``protocol=2`` and without retries. A prologue (`tests.support.prologues`) can stand in
front of every script's text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from issuer.contract import scripts
from issuer.contract.events import Event, decode_event
from issuer.contract.keys import GROUP, KEY_FORMAT, BatchKeys, PartitionKeys, batch_keys, partition_keys
from issuer.contract.scripts import Script
from tests.support.redeeming import CouponState, Result, ScriptCall, ScriptLimit, ScriptRequest, decode_result

ANSWER_KEPT_MS: Final = 86_400_000


def connect(**where: Any) -> redis.Redis:
    """Open a connection as the scripts need it: RESP2, bytes, and the driver never sends a command twice."""
    return redis.Redis(protocol=2, decode_responses=False, retry=Retry(NoBackoff(), 0), driver_info=None, **where)


class Partition:
    """One partition. Each method runs one script and returns its reply as a list of words."""

    def __init__(self, client: redis.Redis, number: int, *, prologue: str = "") -> None:
        self.client = client
        self.number = number
        self.epoch = 1
        self.installation = "ours"
        self.keys: PartitionKeys = partition_keys(number)
        self._prologue = prologue
        self._shas: dict[str, str] = {}

    def run(self, script: Script, keys: Sequence[str | bytes], args: Iterable[str | bytes | int]) -> list[bytes]:
        """Run a script by EVALSHA. Its text is loaded first when the server does not have it (nothing has run then)."""
        sha = self._shas.get(script.name)
        arguments: list[Any] = [len(keys), *keys, *args]
        if sha:
            try:
                return self._evalsha(sha, arguments)
            except redis.exceptions.NoScriptError:
                pass
        loaded = self._execute("SCRIPT LOAD", self._prologue + script.text)
        self._shas[script.name] = loaded.decode() if isinstance(loaded, bytes) else str(loaded)
        return self._evalsha(self._shas[script.name], arguments)

    def _evalsha(self, sha: str, arguments: list[Any]) -> list[bytes]:
        reply = self._execute("EVALSHA", sha, *arguments)
        assert isinstance(reply, list)
        assert all(isinstance(value, bytes) for value in reply), reply
        return reply

    def _execute(self, *command: Any) -> Any:
        return self.client.execute_command(*command)

    def batch(self, batch: UUID) -> BatchKeys:
        return batch_keys(self.number, batch)

    def window(self, batch: UUID, customer: UUID) -> bytes:
        return self.batch(batch).window_prefix + customer.bytes

    def bless(self, *, max_backlog: int = 1_000_000, backlog: int = 0, serial: int = 0, beat: int = 0) -> list[str]:
        args: list[str | bytes | int] = [self.epoch, KEY_FORMAT, max_backlog, backlog, GROUP, self.installation]
        args += [serial, beat, ""]
        return _words(self.run(scripts.BLESS_PARTITION, [self.keys.state, self.keys.stream], args))

    def create_group(self) -> list[str]:
        return _words(self.run(scripts.CREATE_GROUP, [self.keys.state, self.keys.stream], [self.epoch, GROUP]))

    def beat(self, serial_floor: int = 0, beat_floor: int = 0) -> list[str]:
        """The token of the reply is left out."""
        return _words(self.run(scripts.BEAT_PARTITION, [self.keys.state], [self.epoch, serial_floor, beat_floor]))[:3]

    def put_batch(
        self,
        batch: UUID,
        limits: Sequence[ScriptLimit] = (),
        *,
        revision: int = 1,
        state: str = "open",
        paused: bool = False,
        starts_at_ms: int | None = None,
        ends_at_ms: int | None = None,
        rebuilding: int | None = None,
        coupon: CouponState | None = None,
        token: str | None = None,
    ) -> list[str]:
        """`token`: of the revision; the default follows from its number. What it replaces is left out of the reply."""
        packed = ",".join(f"{limit.max}:{limit.window_ms}" for limit in limits)
        times = ["" if at is None else str(at) for at in (starts_at_ms, ends_at_ms, rebuilding)]
        args: list[str | bytes | int] = [self.epoch, revision, state, int(paused), times[0], times[1], packed, times[2]]
        args.append("" if coupon is None else coupon.packed)
        args.append(f"{revision}" if token is None else token)
        words = _words(self.run(scripts.PUT_BATCH, [self.keys.state, self.batch(batch).batch], args))
        return words[:1] if words[0] == "DONE" else words[:2]

    def put_windows(
        self, batch: UUID, rebuilding: int, windows: Sequence[tuple[UUID, Sequence[int], int]]
    ) -> list[str]:
        """`windows`: customer, times in ms (oldest first), ms to keep (0: without expiry)."""
        keys: list[str | bytes] = [self.keys.state, self.batch(batch).batch]
        args: list[str | int] = [self.epoch, rebuilding]
        for customer, times_ms, keep_ms in windows:
            keys.append(self.window(batch, customer))
            args += ["".join(f"{time:013d}" for time in times_ms), keep_ms]
        return _words(self.run(scripts.PUT_WINDOWS, keys, args))

    def put_answers(self, answers: Sequence[tuple[bytes, bytes, int]]) -> list[str]:
        """`answers`: key, what is kept under it, ms to keep it."""
        prefix = self.keys.prefix.encode()
        keys: list[str | bytes] = [self.keys.state, *(prefix + key for key, _, _ in answers)]
        args: list[str | bytes | int] = [self.epoch]
        for _, kept, keep_ms in answers:
            args += [kept, keep_ms]
        return _words(self.run(scripts.PUT_ANSWERS, keys, args))

    def return_uses(self, batch: UUID, uses: Sequence[tuple[UUID, int, int]]) -> list[str]:
        """`uses`: customer, time in ms, and how many entries of that time stay in the window."""
        keys: list[str | bytes] = [self.keys.state, *(self.window(batch, customer) for customer, *_ in uses)]
        args: list[str | bytes | int] = [self.epoch]
        for _, at_ms, stay in uses:
            args += [f"{at_ms:013d}", stay]
        return _words(self.run(scripts.RETURN_USES, keys, args))

    def open_pool(self, batch: UUID, client: UUID, pool_id: int, *, issued: int = 0, total: int = 0) -> list[str]:
        names = self.batch(batch)
        keys = [self.keys.state, names.batch, names.pool(client), names.codes(client)]
        return _words(self.run(scripts.OPEN_POOL, keys, [self.epoch, pool_id, issued, total]))

    def load(
        self, batch: UUID, client: UUID, first_seq: int, codes: Sequence[str], *, total: int, resets: int = 0
    ) -> list[str]:
        names = self.batch(batch)
        keys = [self.keys.state, names.batch, names.pool(client), names.codes(client)]
        return _words(self.run(scripts.LOAD_CODES, keys, [self.epoch, first_seq, total, resets, *codes]))

    def rebuild_pool(self, batch: UUID, client: UUID, pool_id: int, *, issued: int, total: int) -> list[str]:
        names = self.batch(batch)
        keys = [self.keys.state, names.pool(client), names.codes(client)]
        return _words(self.run(scripts.REBUILD_POOL, keys, [self.epoch, pool_id, issued, total]))

    def empty_pool(self, batch: UUID, client: UUID) -> list[str]:
        names = self.batch(batch)
        keys = [self.keys.state, names.batch, names.pool(client), names.codes(client)]
        return _words(self.run(scripts.EMPTY_POOL, keys, [self.epoch]))

    def set_clock(self, host_ms: int) -> list[str]:
        return _words(self.run(scripts.SET_CLOCK, [self.keys.state], [self.epoch, host_ms]))

    def set_max_backlog(self, max_backlog: int) -> list[str]:
        return _words(self.run(scripts.SET_MAX_BACKLOG, [self.keys.state], [self.epoch, max_backlog]))

    def remove_consumers(self, idle_ms: int) -> list[str]:
        keys = [self.keys.state, self.keys.stream]
        return _words(self.run(scripts.REMOVE_CONSUMERS, keys, [self.epoch, GROUP, idle_ms]))

    def ack(self, entries: Sequence[tuple[bytes, int]]) -> list[str]:
        """`entries`: id of a stream entry and the number of redemptions in it. No token takes their place."""
        args: list[str | bytes | int] = [self.epoch, GROUP, "", *(part for entry in entries for part in entry)]
        return _words(self.run(scripts.ACK_EVENTS, [self.keys.state, self.keys.stream], args))[:3]

    def mark_lineage(self, token: str) -> list[str]:
        return _words(self.run(scripts.MARK_LINEAGE, [self.keys.state], [self.epoch, token]))

    def redeem(self, call: ScriptCall) -> Result:
        keys, args = self.encode(call)
        return decode_result(self.run(scripts.REDEEM, keys, args))

    def redeem_now(self, *requests: ScriptRequest) -> Result:
        """Send a new call with a deadline four seconds ahead."""
        seconds, _ = self._execute("TIME")
        return self.redeem(ScriptCall(requests, int(seconds) * 1000 + 4_000, self.epoch))

    def encode(self, call: ScriptCall) -> tuple[list[str | bytes], list[str | bytes | int]]:
        """Return KEYS and ARGV of redeem.lua. Every batch, pool and idempotency key is named once."""
        batches = list(dict.fromkeys(request.batch for request in call.requests))
        pools = list(dict.fromkeys((request.batch, request.client) for request in call.requests))
        answers: list[bytes] = []
        windows: list[str | bytes] = []
        indexes = b""
        for request in call.requests:
            index = 0
            if request.key_hash:
                answer = self.batch(request.batch).idempotency_prefix + request.key_hash
                if answer not in answers:
                    answers.append(answer)
                index = answers.index(answer) + 1
            customer = request.customer
            windows.append(self.window(request.batch, customer) if customer else self.keys.state)
            pool = pools.index((request.batch, request.client)) + 1
            indexes += (pool | request.flags).to_bytes(2) + index.to_bytes(2)
        keys: list[str | bytes] = [self.keys.state, self.keys.stream, self.keys.call(call.call_id.hex)]
        keys += [self.batch(batch).batch for batch in batches]
        keys += [self.batch(batch).pool(client) for batch, client in pools]
        keys += [self.batch(batch).codes(client) for batch, client in pools]
        keys += [*windows, *answers]
        batch_of_pool = b"".join((batches.index(batch) + 1).to_bytes(2) for batch, _ in pools)
        args: list[str | bytes | int] = [call.epoch, call.call_id.hex, call.deadline_ms]
        args += [call.serial_floor, call.beat_floor, ANSWER_KEPT_MS, batch_of_pool, indexes]
        return keys, [*args, *(request.who for request in call.requests)]

    def events(self) -> list[tuple[bytes, Event]]:
        """Return the entries of the stream in order, decoded."""
        entries = self._execute("XRANGE", self.keys.stream, "-", "+")
        return [(entry_id, decode_event(dict(zip(f[::2], f[1::2], strict=True)))) for entry_id, f in _raw(entries)]

    def snapshot(self) -> dict[bytes, tuple[bytes, int]]:
        """Return every key of the partition with its value (as DUMP has it) and the time at which it expires."""
        names = sorted(self.client.scan_iter(match=f"{self.keys.prefix}*", count=1000))
        pipeline = self.client.pipeline(transaction=False)
        for name in names:
            pipeline.execute_command("DUMP", name, NEVER_DECODE=True)
            pipeline.execute_command("PEXPIRETIME", name)
        values = pipeline.execute()
        return {name: (values[2 * i], values[2 * i + 1]) for i, name in enumerate(names)}

    def remove(self) -> None:
        """Delete the keys of this partition and no others."""
        for name in self.client.scan_iter(match=f"{self.keys.prefix}*", count=1000):
            self.client.unlink(name)


def _words(values: list[bytes]) -> list[str]:
    return [value.decode() for value in values]


def _raw(entries: Any) -> list[tuple[bytes, list[bytes]]]:
    """Return the reply of XRANGE as the server sends it, in whatever shape the driver has it."""
    return [
        (entry_id, [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else fields)
        for entry_id, fields in entries
    ]
