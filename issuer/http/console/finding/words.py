"""What has happened, in words."""

from __future__ import annotations

from typing import Final

from issuer.finding.found import EventKind, FoundBy, FoundEvent
from issuer.ledger.redemptions import CodeState

_WORDS: Final = {
    EventKind.LOADED: "Loaded",
    EventKind.ISSUED: "Issued",
    EventKind.RECORDED: "Recorded in the ledger",
    EventKind.REVERSED: "Use reversed",
    EventKind.QUARANTINED: "Quarantined: a lost Redis may have issued it",
    EventKind.RELEASED: "Released from quarantine",
    EventKind.VOID: "Void: no caller received it",
    EventKind.DEAD_LETTER: "Could not be recorded",
    EventKind.RESOLVED: "Recorded after all",
    EventKind.ANOMALY: "Contradicts the ledger",
    EventKind.POINTS: "Points",
    EventKind.HELD: "Points held",
    EventKind.JOINED: "Member joined",
    EventKind.ERASED: "Member erased",
    EventKind.CARD_ISSUED: "Card issued",
    EventKind.CARD_REVOKED: "Card revoked",
}
_KINDS: Final = {
    EventKind.QUARANTINED: "warn",
    EventKind.DEAD_LETTER: "bad",
    EventKind.ANOMALY: "bad",
}
STATES: Final[dict[CodeState | None, tuple[str, str]]] = {
    CodeState.AVAILABLE: ("In stock", "good"),
    CodeState.BACKLOG: ("Issued, not recorded yet", ""),
    CodeState.REDEEMED: ("Issued", ""),
    CodeState.QUARANTINED: ("Quarantined", "warn"),
    CodeState.DEAD_LETTER: ("Not recorded", "bad"),
    CodeState.UNKNOWN: ("Redis is unavailable", "warn"),
    None: ("Coupon", ""),
}
"""The states of a code, each with the class of its badge."""
SEARCHES: Final = {
    FoundBy.CODE: "a code",
    FoundBy.COUPON: "a coupon",
    FoundBy.CUSTOMER: "a customer",
    FoundBy.ORDER: "an order",
    FoundBy.USE: "the id of a use",
    FoundBy.MEMBER: "a member",
    FoundBy.EMAIL: "the e-mail address of a member",
    FoundBy.PHONE: "the phone number of a member",
    FoundBy.CARD: "a card",
}


def sentence(event: FoundEvent) -> str:
    """Return what happened."""
    words = _WORDS[event.kind]
    return f"{words}: {event.note}" if event.kind in (EventKind.DEAD_LETTER, EventKind.ANOMALY) else words


def colour(event: FoundEvent) -> str:
    """Return the class in which a time line shows an event; empty: as all others."""
    return _KINDS.get(event.kind, "")


def taken_for(by: list[FoundBy]) -> str:
    """Return what a text was taken for: `a code and a customer`."""
    names = [SEARCHES[one] for one in by]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""
