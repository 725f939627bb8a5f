"""Speaks to the Lua scripts from plain values: a second spelling of KEYS and ARGV, independent of the engine's.

Everything happens in one partition, through a plain connection with ``protocol=2`` and without retries. A
prologue in front of a script's text can freeze its clock or break it off in the middle; the scripts themselves know
nothing of that.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from issuer.contract import scripts
from issuer.contract.events import Event, decode_event, encode_who
from issuer.contract.keys import GROUP, KEY_FORMAT, BatchKeys, PartitionKeys, batch_keys, partition_keys
from issuer.contract.scripts import Script

ANSWER_KEPT_MS: Final = 86_400_000
_RS, _US = b"\x1e", b"\x1f"

_CLOCK: Final = """local real = redis
local redis = setmetatable({call = function(name, ...)
  if name ~= 'TIME' then return real.call(name, ...) end
  local ms = tonumber(real.call('GET', '%s'))
  return {string.format('%%.0f', math.floor(ms / 1000)), string.format('%%.0f', ms %% 1000 * 1000)}
end}, {__index = real})
"""

_BREAK: Final = """local real, left = redis, %d
local reads = {HGET = 1, HMGET = 1, GET = 1, MGET = 1, EXISTS = 1, LRANGE = 1, LLEN = 1, XLEN = 1, TIME = 1}
local redis = setmetatable({call = function(name, ...)
  if not reads[name] then
    if left == 0 then error('broken off') end
    left = left - 1
  end
  return real.call(name, ...)
end}, {__index = real})
"""


def frozen_clock(key: str) -> str:
    """A prologue under which TIME is what `key` holds, in ms."""
    return _CLOCK % key


def broken_off(writes: int) -> str:
    """A prologue under which a script dies after so many writes, as if the next one had failed."""
    return _BREAK % writes


@dataclass(frozen=True, slots=True)
class ScriptLimit:
    """At most `max` redemptions in any window; `window_ms` 0 means for ever."""

    max: int
    window_ms: int


@dataclass(frozen=True, slots=True)
class CouponState:
    """What Redis is told of a coupon. `folded` '': whatever code leads to it will do."""

    total: int
    number: int = 1
    folded: str = ""
    product: str = ""
    terms: str = '{"discount_fixed":"5.00"}'

    @property
    def packed(self) -> str:
        return "\x1f".join((str(self.total), str(self.number), self.folded, self.product, self.terms))


@dataclass(frozen=True, slots=True)
class CouponWish:
    """What is asked of a coupon; `look`: only whether it could be used."""

    folded: str = "save"
    product: str = ""
    order: str = ""
    look: bool = False


@dataclass(frozen=True, slots=True)
class ScriptRequest:
    """One customer wants one code, or (`wish`) to use a coupon. `customer` None: nobody, no limits."""

    batch: UUID
    client: UUID
    customer: UUID | None
    key: str | None = None
    api_key_id: int = 0
    wish: CouponWish | None = None

    @property
    def key_hash(self) -> bytes | None:
        if self.key is None:
            return None
        customer = self.customer.bytes if self.customer else b""
        return hashlib.sha256(customer + self.key.encode()).digest()[:16]

    @property
    def who(self) -> bytes:
        who = encode_who(self.customer.bytes if self.customer else None, self.api_key_id, self.key_hash)
        if self.wish is None:
            return who
        folded, product, order = (
            len(text.encode()).to_bytes(2) + text.encode()
            for text in (self.wish.folded, self.wish.product, self.wish.order)
        )
        return folded + product + who + order

    @property
    def flags(self) -> int:
        return 0 if self.wish is None else 0x2000 if self.wish.look else 0x4000


@dataclass(frozen=True, slots=True)
class ScriptAnswer:
    """What became of one request: the word, and what stands behind it (a code, a time in ms, or nothing)."""

    word: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What redeem.lua returned. `raw` is the part that is kept for a repeat of the call."""

    status: str
    now_ms: int = 0
    answers: tuple[ScriptAnswer, ...] = ()
    data: bytes = b""
    host_ms: int = 0
    raw: bytes = b""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One call of redeem.lua, as it can be sent again."""

    requests: tuple[ScriptRequest, ...]
    deadline_ms: int
    epoch: int
    call_id: UUID = field(default_factory=uuid.uuid4)


def connect(**where: Any) -> redis.Redis:
    """A connection as the scripts want it: RESP2, bytes, and nothing is ever sent twice."""
    return redis.Redis(protocol=2, decode_responses=False, retry=Retry(NoBackoff(), 0), **where)


class Partition:
    """One partition of a real server, driven script by script. Statuses come back as lists of words."""

    def __init__(self, client: redis.Redis, number: int, *, prologue: str = "") -> None:
        self.client = client
        self.number = number
        self.epoch = 1
        self.installation = "ours"
        self.keys: PartitionKeys = partition_keys(number)
        self._prologue = prologue
        self._shas: dict[str, str] = {}

    def run(self, script: Script, keys: Sequence[str | bytes], args: Iterable[str | bytes | int]) -> list[bytes]:
        """EVALSHA; the text is loaded when the server does not know it (nothing has run then)."""
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

    def bless(self, *, max_backlog: int = 1_000_000, backlog: int = 0) -> list[str]:
        args: list[str | bytes | int] = [self.epoch, KEY_FORMAT, max_backlog, backlog, GROUP, self.installation]
        return _words(self.run(scripts.BLESS_PARTITION, [self.keys.state, self.keys.stream], args))

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
    ) -> list[str]:
        packed = ",".join(f"{limit.max}:{limit.window_ms}" for limit in limits)
        times = ["" if at is None else str(at) for at in (starts_at_ms, ends_at_ms, rebuilding)]
        args: list[str | bytes | int] = [self.epoch, revision, state, int(paused), times[0], times[1], packed, times[2]]
        args.append("" if coupon is None else coupon.packed)
        return _words(self.run(scripts.PUT_BATCH, [self.keys.state, self.batch(batch).batch], args))

    def put_windows(
        self, batch: UUID, rebuilding: int, windows: Sequence[tuple[UUID, Sequence[int], int]]
    ) -> list[str]:
        """`windows`: customer, times in ms (oldest first), ms to keep (0: for ever)."""
        keys: list[str | bytes] = [self.keys.state, self.batch(batch).batch]
        args: list[str | int] = [self.epoch, rebuilding]
        for customer, times_ms, keep_ms in windows:
            keys.append(self.window(batch, customer))
            args += ["".join(f"{time:013d}" for time in times_ms), keep_ms]
        return _words(self.run(scripts.PUT_WINDOWS, keys, args))

    def return_uses(self, batch: UUID, uses: Sequence[tuple[UUID, int, int]]) -> list[str]:
        """`uses`: customer, time in ms, and how many of that time stay."""
        keys: list[str | bytes] = [self.keys.state, *(self.window(batch, customer) for customer, *_ in uses)]
        args: list[str | bytes | int] = [self.epoch]
        for _, at_ms, stay in uses:
            args += [f"{at_ms:013d}", stay]
        return _words(self.run(scripts.RETURN_USES, keys, args))

    def open_pool(self, batch: UUID, client: UUID, pool_id: int, *, issued: int = 0, total: int = 0) -> list[str]:
        keys = [self.keys.state, self.batch(batch).batch, self.batch(batch).pool(client)]
        return _words(self.run(scripts.OPEN_POOL, keys, [self.epoch, pool_id, issued, total]))

    def load(self, batch: UUID, client: UUID, first_seq: int, codes: Sequence[str], *, total: int) -> list[str]:
        names = self.batch(batch)
        keys = [self.keys.state, names.batch, names.pool(client), names.codes(client)]
        return _words(self.run(scripts.LOAD_CODES, keys, [self.epoch, first_seq, total, *codes]))

    def rebuild_pool(self, batch: UUID, client: UUID, pool_id: int, *, issued: int, total: int) -> list[str]:
        names = self.batch(batch)
        keys = [self.keys.state, names.pool(client), names.codes(client)]
        return _words(self.run(scripts.REBUILD_POOL, keys, [self.epoch, pool_id, issued, total]))

    def ack(self, entries: Sequence[tuple[bytes, int]]) -> list[str]:
        """`entries`: stream id and number of redemptions in it."""
        args: list[str | bytes | int] = [self.epoch, GROUP, *(part for entry in entries for part in entry)]
        return _words(self.run(scripts.ACK_EVENTS, [self.keys.state, self.keys.stream], args))

    def redeem(self, call: ScriptCall) -> Result:
        keys, args = self.encode(call)
        return decode_result(self.run(scripts.REDEEM, keys, args))

    def redeem_now(self, *requests: ScriptRequest) -> Result:
        """A new call with a deadline that lies ahead."""
        seconds, _ = self._execute("TIME")
        return self.redeem(ScriptCall(requests, int(seconds) * 1000 + 10_000, self.epoch))

    def encode(self, call: ScriptCall) -> tuple[list[str | bytes], list[str | bytes | int]]:
        """KEYS and ARGV of redeem.lua. Every batch, pool and idempotency key is named once."""
        batches = list(dict.fromkeys(request.batch for request in call.requests))
        pools = list(dict.fromkeys((request.batch, request.client) for request in call.requests))
        answers: list[bytes] = []
        windows: list[str | bytes] = []
        requests: list[bytes] = []
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
            requests.append((pool | request.flags).to_bytes(2) + index.to_bytes(2) + request.who)
        keys: list[str | bytes] = [self.keys.state, self.keys.stream, self.keys.call(call.call_id.hex)]
        keys += [self.batch(batch).batch for batch in batches]
        keys += [self.batch(batch).pool(client) for batch, client in pools]
        keys += [self.batch(batch).codes(client) for batch, client in pools]
        keys += [*windows, *answers]
        batch_of_pool = b"".join((batches.index(batch) + 1).to_bytes(2) for batch, _ in pools)
        args: list[str | bytes | int] = [call.epoch, call.call_id.hex, call.deadline_ms, len(batches), len(pools)]
        return keys, [*args, batch_of_pool, ANSWER_KEPT_MS, *requests]

    def events(self) -> list[tuple[bytes, Event]]:
        """What lies in the stream, in order."""
        entries = self._execute("XRANGE", self.keys.stream, "-", "+")
        return [(entry_id, decode_event(dict(zip(f[::2], f[1::2], strict=True)))) for entry_id, f in _raw(entries)]

    def snapshot(self) -> dict[bytes, tuple[bytes, int]]:
        """Every key of the partition with its value as DUMP tells it and the time it expires."""
        names = sorted(self.client.scan_iter(match=f"{self.keys.prefix}*", count=1000))
        pipeline = self.client.pipeline(transaction=False)
        for name in names:
            pipeline.execute_command("DUMP", name, NEVER_DECODE=True)
            pipeline.execute_command("PEXPIRETIME", name)
        values = pipeline.execute()
        return {name: (values[2 * i], values[2 * i + 1]) for i, name in enumerate(names)}

    def remove(self) -> None:
        """Deletes the keys of this partition and no others."""
        for name in self.client.scan_iter(match=f"{self.keys.prefix}*", count=1000):
            self.client.unlink(name)


def decode_result(values: list[bytes]) -> Result:
    """What redeem.lua returned, taken apart."""
    status = values[0].decode()
    if status not in ("DONE", "REPEATED"):
        return Result(status, detail=values[1].decode())
    now, _, answers, said = values[1].split(_RS, 3)
    host_ms = int(values[3]) if status == "DONE" else 0
    uses = [text.decode() for text in said.split(_US)]
    told = tuple(_answer(answer.decode(), uses) for answer in answers.split(_US))
    return Result(status, int(now), told, values[2], host_ms, values[1])


def _answer(text: str, uses: Sequence[str]) -> ScriptAnswer:
    word, _, detail = text.partition(" ")
    if word not in ("USED", "USED_BEFORE"):
        return ScriptAnswer(word, detail)
    which, number = detail.split(" ")
    pool_id, call_and_terms = uses[int(which) - 1].split(" ", 1)
    return ScriptAnswer("GRANTED" if word == "USED" else "REPLAYED", f"{pool_id} {number} {call_and_terms}")


def _words(values: list[bytes]) -> list[str]:
    return [value.decode() for value in values]


def _raw(entries: Any) -> list[tuple[bytes, list[bytes]]]:
    """XRANGE as the server sends it, whichever shape the library makes of it."""
    return [
        (entry_id, [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else fields)
        for entry_id, fields in entries
    ]
