"""The header Idempotency-Key of a request: one implementation for every route that takes it.

Hot routes pass the key to the script, which keeps the answer in Redis. Every other operation that creates something
keeps its answer in Postgres, in the transaction of the act (`KeyedAct`): draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar
from uuid import UUID

from starlette.responses import Response

from issuer.http.edge.header_fields import HeaderFields
from issuer.http.problems.problem import ProblemError, invalid
from issuer.storage.acts import Act
from issuer.storage.kept_answers import (
    AnswerKey,
    AnswerTooLargeError,
    KeptAct,
    KeptAnswer,
    find_answer,
    forget_answer,
    keep_answer,
    try_lock,
)
from issuer.storage.postgres import AnyConnection, Pool, unavailable_translated

_FORM: Final = re.compile(rb"[\x20-\x7e]{1,255}")
BAD_KEY: Final = invalid(
    "Idempotency-Key must be 1 to 255 printable ASCII characters, given once", "invalid_idempotency_key"
)
REPLAYED: Final = "idempotency-replayed"
_LENGTH: Final = b"content-length"
Result = TypeVar("Result")


def read_idempotency_key(fields: HeaderFields) -> str | None:
    """Return the key of a request; None: it has none. Raises ProblemError, also for a key that is given twice."""
    key = fields.get(b"idempotency-key")
    if key is None:
        return None
    # REPEATED is not printable.
    if _FORM.fullmatch(key) is None:
        raise BAD_KEY
    return key.decode("ascii")


def request_digest(*parts: bytes) -> bytes:
    """Return the SHA-256 of the parts of a request that make it the same request as another."""
    return hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).digest()


class AlreadyAnsweredError(Exception):
    """The act of this key was carried out before; `answer` is what it was answered."""

    def __init__(self, answer: KeptAnswer) -> None:
        super().__init__("the act was carried out before")
        self.answer = answer


@dataclass(slots=True)
class Idempotency:
    """The Idempotency-Key of one request, or None, and whether its answer is kept.

    `digest` must be set before the act begins; it is that of `request_digest`.
    """

    postgres: Pool
    client_id: UUID | None
    route: str
    key: str | None
    digest: bytes = b""
    is_kept: bool = field(default=False, init=False)

    @property
    def answer_key(self) -> AnswerKey:
        assert self.key is not None
        return AnswerKey(self.client_id, self.route, self.key)

    async def check(self, connection: AnyConnection | None = None) -> None:
        """Raise AlreadyAnsweredError if an answer is kept, and ProblemError (422) if it is that of another request."""
        if self.key is None:
            return
        answer = await find_answer(connection or self.postgres, self.answer_key)
        if answer is not None:
            self.compare(answer)

    def compare(self, answer: KeptAnswer) -> None:
        """Raise as `check` does for an answer that is kept."""
        if answer.request_sha256 != self.digest:
            raise ProblemError(422, "idempotency key was used with another request", "idempotency_key_reused")
        raise AlreadyAnsweredError(answer)

    async def lock(self, connection: AnyConnection) -> None:
        """Keep other requests with this key from beginning their act. Raises as `check`, and ProblemError (409)."""
        if self.key is None:
            return
        if not await try_lock(connection, self.answer_key):
            raise ProblemError(
                409,
                "a request with this idempotency key is in progress",
                "idempotency_key_in_use",
                headers={"Retry-After": "1"},
            )
        # Only now: the request that had the lock before may have been answered since the first look.
        await self.check(connection)

    async def keep(self, connection: Pool | AnyConnection, response: Response) -> None:
        """Keep the answer. Raises ProblemError if it is too large: the act must then be rolled back."""
        if self.key is not None:
            await keep_answer(connection, self.answer_key, self.kept(response))
            self.is_kept = True

    def kept(self, response: Response) -> KeptAnswer:
        """Return the answer as it is kept. Raises ProblemError if it is too large."""
        headers = {name.decode(): value.decode("latin-1") for name, value in response.raw_headers if name != _LENGTH}
        answer = KeptAnswer(self.digest, response.status_code, headers, bytes(response.body))
        try:
            answer.check_size()
        except AnswerTooLargeError as error:
            raise invalid("the answer is too large to be kept: send the request without Idempotency-Key") from error
        return answer

    async def replace(self, response: Response) -> None:
        """Keep the final answer to an act that went on after its transaction."""
        async with unavailable_translated():
            await self.keep(self.postgres, response)

    async def forget(self) -> None:
        """Keep no answer, because the act failed after its transaction."""
        if self.key is not None:
            async with unavailable_translated():
                await forget_answer(self.postgres, self.answer_key)
            self.is_kept = False


class KeyedAct(KeptAct[Result]):
    """An act whose answer is kept if the request has an Idempotency-Key. `response` is that answer.

    What carries it out uses either `begin` and `keep`, or with the acts of other requests `compare` and `render`.
    """

    def __init__(self, idempotency: Idempotency, show: Callable[[Result], Awaitable[Response]]) -> None:
        self._idempotency = idempotency
        self._answer_key = None if idempotency.key is None else idempotency.answer_key
        self._show = show
        self._response: Response | None = None

    @property
    def response(self) -> Response:
        assert self._response is not None, "the act was not carried out"
        return self._response

    async def begin(self, connection: AnyConnection) -> None:
        await self._idempotency.lock(connection)

    @property
    def answer_key(self) -> AnswerKey | None:
        return self._answer_key

    def compare(self, answer: KeptAnswer) -> None:
        self._idempotency.compare(answer)

    async def render(self, result: Result) -> KeptAnswer:
        self._response = await self._show(result)
        self._idempotency.is_kept = True
        return self._idempotency.kept(self._response)

    async def keep(self, connection: AnyConnection, result: Result) -> None:
        self._response = await self._show(result)
        await self._idempotency.keep(connection, self._response)


class DryRunError(Exception):
    """An act was carried out up to its end, and its transaction is rolled back. `response`: what would be answered."""

    def __init__(self, response: Response) -> None:
        super().__init__("the act was tried only")
        self.response = response


class DryAct(Act[Result]):
    """An act that is tried: its checks are made, and at the end DryRunError rolls it back. No answer is kept."""

    def __init__(self, show: Callable[[Result], Awaitable[Response]]) -> None:
        self._show = show

    @property
    def response(self) -> Response:
        raise AssertionError("an act that is tried ends with DryRunError")

    async def keep(self, connection: AnyConnection, result: Result) -> None:
        raise DryRunError(await self._show(result))


def replay(answer: KeptAnswer) -> Response:
    """Return the response that repeats a kept answer."""
    return Response(answer.body, answer.status, {**answer.headers, REPLAYED: "true"})
