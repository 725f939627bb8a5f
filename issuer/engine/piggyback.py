"""Commands that are not worth a round trip of their own: they travel with the next pipeline of the engine."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any, Protocol

from issuer.storage.redis_link import Value


class PiggybackedCommands(Protocol):
    """A source of such commands. None of its methods may raise."""

    @property
    def queue(self) -> Sized:
        """The commands that wait to be sent."""
        ...

    def commands(self) -> list[Sequence[Value]]:
        """Return the commands to send now. They are sent once; then either `settle` or `fail` is called."""
        ...

    def settle(self, replies: Sequence[Any]) -> None:
        """Take the replies, in the order of the commands. An error reply is an exception in its place."""
        ...

    def fail(self) -> None:
        """Redis is unavailable: no reply arrives for what was sent, and what waits will not be sent."""
        ...
