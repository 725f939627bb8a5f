"""What has become of a delivery of a shop: the label of a metric, and the answer to the shop."""

from __future__ import annotations

from enum import StrEnum


class HookOutcome(StrEnum):
    """RECEIVED: to be processed. REPEATED: it was received before. IGNORED: it says nothing that counts.

    UNREADABLE: it is signed, and not what the shop's documentation describes. UNSIGNED: refused with 401.
    """

    RECEIVED = "received"
    REPEATED = "repeated"
    IGNORED = "ignored"
    UNREADABLE = "unreadable"
    UNSIGNED = "unsigned"
    PING = "ping"
