"""The receipts of a script call's reply: of everything that is answered with a code or a use of a coupon.

What the call granted is one receipt, with the data of its event. Each replay of an Idempotency-Key is one, too: the
process that granted it may have lost its journal, and this answer is then the only trace of the grant. A call that is
repeated after its event left the stream has no data: the worker has recorded it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from issuer.journal.segments import Receipt

if TYPE_CHECKING:
    from issuer.engine.calls import Call

_RS: Final = b"\x1e"
_US: Final = b"\x1f"


def receipts_of(call: Call, reply: list[Any]) -> list[Receipt]:
    """Return the receipts of a reply DONE or REPEATED."""
    head, _, answers, details = reply[1].split(_RS, 3)
    now_ms, epoch, serial, facts = head.split(b" ")
    receipts = []
    if reply[2]:
        receipts.append(
            Receipt(int(epoch), call.partition, int(now_ms), call.call_id, int(serial), int(facts), reply[2])
        )
    # One look at all answers: hardly any call has a replay. A code may contain these words; then nothing is found.
    if b"REPLAYED " in answers or b"USED_BEFORE " in answers:
        uses = details.split(_US)
        for waiting, answer in zip(call.waiting, answers.split(_US), strict=True):
            if answer.startswith(b"REPLAYED "):
                _, pool_id, seq, at_ms, epoch, serial, element = answer.split(b" ", 6)
                data = b"R %b %b 1\n%b%b%b" % (pool_id, seq, len(element).to_bytes(2, "big"), element, waiting.who)
                call_id = ""
            elif answer.startswith(b"USED_BEFORE "):
                _, which, seq, at_ms, epoch, serial = answer.split(b" ")
                pool_id, used_by, terms, _ = uses[int(which) - 1].split(b" ", 3)
                data = b"C %b %b 1 %b\n%b" % (pool_id, seq, terms, _without_wish(waiting.who))
                call_id = used_by.decode()
            else:
                continue
            # Serial 0: this very call granted it, so it has a receipt already.
            if serial != b"0":
                receipts.append(Receipt(int(epoch), call.partition, int(at_ms), call_id, int(serial), 1, data))
    return receipts


def _without_wish(who: bytes) -> bytes:
    """Return what follows the folded code and the product (`coupon_wish`) of a request about a coupon."""
    for _ in range(2):
        who = who[2 + int.from_bytes(who[:2], "big") :]
    return who
