"""One case of the differential test: bytes to send, and the request from which they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import TypeVar
from uuid import UUID

from tests.differential.preloaded import Preloaded

Header = tuple[bytes, bytes]
Choice = TypeVar("Choice")


@dataclass(frozen=True, slots=True)
class Case:
    """What is sent at once on one connection. `methods`: of the requests in it, in their order."""

    seed: int
    index: int
    title: str
    listener: str
    pieces: tuple[bytes, ...]
    methods: tuple[bytes, ...]
    probed: bool = False
    """Whether the connection is used for nothing else, and how it answers afterwards is compared, too."""
    behind: bytes = b""
    """What a probed connection is sent when the answers are there. Sent with the request it would be a race: a server
    that has answered by then refuses these bytes with an answer of their own, one that has not with `close`."""

    @property
    def waits_for_continue(self) -> bool:
        """Whether a request says that it does."""
        return any(b"\r\nexpect:" in piece.lower() for piece in self.pieces)


class Framing(Enum):
    """How the body is sent. `NONE`: neither a length nor chunks."""

    LENGTH = "length"
    NONE = "none"
    CHUNKED = "chunked"


@dataclass(slots=True)
class RequestDraft:
    """A request that oddities change before it is written."""

    target: bytes
    headers: list[Header]
    body: bytes
    method: bytes = b"POST"
    version: bytes = b"HTTP/1.1"
    host: tuple[bytes, ...] = (b"issuer",)
    framing: Framing = Framing.LENGTH
    length: bytes | None = None
    """Content-Length where it is not the body's, such as `007`."""
    chunk_size: int = 4_096
    trailers: tuple[Header, ...] = ()
    behind: bytes = b""
    """Bytes behind the body, see `Case.behind`."""
    notes: list[str] = field(default_factory=list)
    """Names of the oddities."""

    def without(self, name: bytes) -> None:
        """Remove all headers of this name (in lower case)."""
        self.headers = [header for header in self.headers if header[0].lower() != name]

    def put(self, *headers: Header) -> None:
        """Replace the headers of these names."""
        for name, _ in headers:
            self.without(name.lower())
        self.headers += headers

    def head(self) -> bytes:
        lines = [b"%b %b %b" % (self.method, self.target, self.version)]
        lines += [b"Host: " + host for host in self.host]
        lines += [b"%b: %b" % header for header in self.headers]
        if self.framing is Framing.LENGTH:
            lines.append(b"Content-Length: " + (b"%d" % len(self.body) if self.length is None else self.length))
        elif self.framing is Framing.CHUNKED:
            lines.append(b"Transfer-Encoding: chunked")
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def payload(self) -> bytes:
        """The body as it is framed."""
        if self.framing is not Framing.CHUNKED:
            return self.body
        chunks = [self.body[at : at + self.chunk_size] for at in range(0, len(self.body), self.chunk_size)]
        framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        trailers = b"".join(b"%b: %b\r\n" % header for header in self.trailers)
        return framed + b"0\r\n" + trailers + b"\r\n"

    def to_bytes(self) -> bytes:
        return self.head() + self.payload()


@dataclass(slots=True)
class Draw:
    """The source of all choices of one case."""

    random: Random
    index: int
    preloaded: Preloaded

    def one_of(self, choices: Sequence[Choice]) -> Choice:
        return self.random.choice(choices)

    def weighted(self, weights: Mapping[Choice, int]) -> Choice:
        """One of the keys, as often as its weight says."""
        return self.random.choices(list(weights), list(weights.values()))[0]

    def happens(self, probability: float) -> bool:
        return self.random.random() < probability

    def uuid(self) -> str:
        """An id that no other case draws."""
        return str(UUID(int=self.random.getrandbits(128), version=4))

    def recent(self, every: int, spread: int) -> int:
        """A small number that grows with the index, so that nearby cases draw the same ones."""
        return self.index // every + self.random.randrange(spread)
