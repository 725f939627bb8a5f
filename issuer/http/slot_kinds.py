"""What slots are for, and why there is none: the labels of a metric."""

from __future__ import annotations

from enum import StrEnum


class SlotKind(StrEnum):
    """What slots are for, as a plural that errors and metrics name."""

    UPLOADS = "uploads"
    LOADS = "loads"
    REPORTS = "reports"
    LISTS = "lists"
    OPERATIONS = "operations"
    STREAMS = "streams"
    CONNECTIONS = "connections"
    DELIVERIES = "deliveries"


class SlotRefusal(StrEnum):
    """Why there is no slot: all are taken, or the tenant has its share."""

    FULL = "full"
    SHARE = "share"
