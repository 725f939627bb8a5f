"""Play a session: send its pieces and read what comes back, with a reader of answers of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import orjson

from tests.fuzz.sessions import LAST, Session

ANSWER_LIMIT_S: Final = 60.0
"""The server answers or closes in far less: its own limit for a request that does not arrive is 4 s."""
IDLE_S: Final = 10.0
"""After that much longer than the server's own limit a connection is idle, if it is open."""
IMPLEMENTED: Final = {501, 505}
BUSY: Final = {"overloaded", "backlog_full", "pool_refilling", "too_many_connections"}
"""Values of `code` of a 503 that a busy installation may answer with."""


@dataclass(frozen=True, slots=True)
class FuzzAnswer:
    status: int
    fields: dict[bytes, bytes]
    body: bytes


class BadAnswerError(Exception):
    """What the server sent is no sequence of HTTP answers."""


def read_answers(received: bytes, *, cut: bool) -> list[FuzzAnswer]:
    """Split what was received into final answers. With `cut` the last one may be incomplete: it is left out."""
    answers: list[FuzzAnswer] = []
    while received:
        head, separator, received = received.partition(b"\r\n\r\n")
        if not separator:
            if cut:
                break
            raise BadAnswerError(f"an incomplete head: {head[:200]!r}")
        first, *lines = head.split(b"\r\n")
        version, _, rest = first.partition(b" ")
        if version != b"HTTP/1.1" or not rest[:3].isdigit():
            raise BadAnswerError(f"no status line: {first[:200]!r}")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        status = int(rest[:3])
        if status < 200:
            continue
        size = int(fields[b"content-length"])
        if len(received) < size:
            if cut:
                break
            raise BadAnswerError(f"a body of {len(received)} of {size} bytes")
        answers.append(FuzzAnswer(status, fields, received[:size]))
        received = received[size:]
    return answers


@dataclass(slots=True)
class Played:
    """What a session showed."""

    session: Session
    answers: list[FuzzAnswer]
    problems: list[str]


async def play(port: int, session: Session) -> Played:
    """Play one session and check what every session must show."""
    received, cut = b"", False
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                receiving = asyncio.create_task(_read(reader), name="read answers")
                await _send(writer, session)
                if session.breaks_off:
                    receiving.cancel()
                    await asyncio.wait([receiving])
                    return Played(session, [], [])
                await asyncio.wait([receiving], timeout=IDLE_S)
                if session.expected is None and not receiving.done():
                    # A fault may have made the last request part of a body; then the connection waits for another one.
                    with suppress(ConnectionError):
                        writer.write(LAST)
                        await writer.drain()
                received, cut = await receiving
            finally:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()
    except TimeoutError:
        return Played(session, [], [f"hangs: neither answered nor closed within {ANSWER_LIMIT_S} s"])
    try:
        answers = read_answers(received, cut=cut)
    except BadAnswerError as error:
        return Played(session, [], [str(error)])
    return Played(session, answers, [*_bad_statuses(answers), *_differences(session, answers)])


async def _send(writer: asyncio.StreamWriter, session: Session) -> None:
    with suppress(ConnectionError):
        for wait_s, piece in session.pieces:
            if wait_s:
                await asyncio.sleep(wait_s)
            writer.write(piece)
            await writer.drain()


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """Return everything until the server closes, and whether it reset the connection: answers may be lost then."""
    received = b""
    try:
        while data := await reader.read(65_536):
            received += data
    except ConnectionError:
        return received, True
    return received, False


def _bad_statuses(answers: list[FuzzAnswer]) -> list[str]:
    """What no request may be answered with: a 5xx, but for what the server states not to implement or a busy one."""
    found = []
    for answer in answers:
        if answer.status >= 500 and answer.status not in IMPLEMENTED:
            code = orjson.loads(answer.body).get("code") if answer.body.startswith(b"{") else None
            if answer.status != 503 or code not in BUSY:
                found.append(f"a {answer.status}: {answer.body[:200]!r}")
    return found


def _differences(session: Session, answers: list[FuzzAnswer]) -> list[str]:
    if session.expected is None:
        # One more than was meant: a fault may make two requests of one, but each has an answer at most.
        return []
    statuses = [answer.status for answer in answers]
    expected = [request.status for request in session.expected]
    return [] if statuses == expected else [f"answered {statuses}, expected {expected}"]


def granted(played: list[Played]) -> Counter[str]:
    """Count what well-formed sessions were granted."""
    counts: Counter[str] = Counter()
    for one in played:
        for request, answer in zip(one.session.expected or (), one.answers, strict=False):
            if request.grants and answer.status == 200:
                counts[request.grants] += 1
    return counts
