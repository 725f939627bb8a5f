"""Requests to POST /coupon/consume/."""

from __future__ import annotations

from urllib.parse import quote_plus, urlencode

from tests.differential.case import Draw, RequestDraft
from tests.differential.odd_json import Members, members_of, text_of
from tests.differential.preloaded import ACME, BOREAL, COUPON_CODES, NOT_THERE
from tests.differential.redeem_cases import customer_of, key_header

PATH = b"/coupon/consume/"

KEYS = {
    "redeem": 30, "acme redeem": 30, "boreal redeem": 4, "all": 5, "admin": 3, "acme public": 12, "limited": 2,
    "limited admin": 1, "enumerating": 3, "revoked": 2, "unknown": 2, "none": 2,
}  # fmt: skip
CODES = {
    "OPEN": 50,
    "HAT": 8,
    "ONCE": 10,
    "FEW": 4,
    "PAUSED": 4,
    "EXPIRED": 6,
    "SHARED": 4,
    "Cased": 6,
    "CASED": 2,
    "NONE": 6,
}

assert CODES.keys() == {*COUPON_CODES, "NONE"}


def good_request(draw: Draw) -> tuple[RequestDraft, Members]:
    """A request with its fields in the query, a form or JSON, and the fields as JSON members."""
    code = draw.weighted(CODES)
    fields = {"code": draw.one_of((code, code, code.lower(), f" {code}", f"{code[:1]}-{code[1:]}"))}
    if draw.happens(0.8):
        fields["client_id"] = str(ACME) if draw.happens(0.92) else draw.one_of((str(BOREAL), NOT_THERE, ""))
    if draw.happens(0.5) or code == "ONCE":
        fields["customer_id"] = customer_of(draw)
    if draw.happens(0.4) or code == "HAT":
        fields["product_id"] = draw.one_of(("hat", "hat", "hat", "shoe", ""))
    if draw.happens(0.4):
        fields["order_id"] = draw.one_of(("7", f"order {draw.index}", "é", ""))
    request = RequestDraft(PATH, [], b"")
    key_header(draw, request, KEYS)
    if draw.happens(0.3):
        number = draw.recent(40, 5)
        request.headers.append((b"Idempotency-Key", b"consume-%d" % number))
        if draw.happens(0.9):
            fields = {"code": "OPEN", "client_id": str(ACME), "order_id": str(number)}
            if draw.happens(0.15):
                # The key is used again for another order.
                fields["order_id"] += "b"
    place_fields(draw, request, fields)
    return request, members_of(**fields)


def place_fields(draw: Draw, request: RequestDraft, fields: dict[str, str]) -> None:
    """Put each field into the query or the body, which is JSON or a form."""
    share = draw.one_of((0.0, 0.0, 1.0, 0.5))
    in_query = {name for name in fields if draw.random.random() < share}
    query = {name: value for name, value in fields.items() if name in in_query}
    body = {name: value for name, value in fields.items() if name not in in_query}
    if query:
        request.target += b"?" + urlencode(query).encode()
    if not body and draw.happens(0.7):
        return
    kind = draw.random.choices(("json", "form", "multipart"), (6, 4, 1))[0]
    if kind == "json":
        request.body = text_of(members_of(**body))
        request.headers.append((b"Content-Type", b"application/json"))
    elif kind == "form":
        request.body = draw.one_of((urlencode(body), odd_form(draw, body))).encode()
        sent_as = draw.one_of((b"application/x-www-form-urlencoded",) * 9 + (b"application/json",))
        request.headers.append((b"Content-Type", sent_as))
    else:
        parts = [
            f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in body.items()
        ]
        request.body = ("".join(parts) + "--b--\r\n").encode()
        request.headers.append((b"Content-Type", b"multipart/form-data; boundary=b"))


def odd_form(draw: Draw, fields: dict[str, str]) -> str:
    """A form that means the same, nearly the same, or nothing."""
    text = urlencode(fields)
    code = quote_plus(fields.get("code", "OPEN"))
    return draw.one_of((
        text + "&", "&" + text, text + "&code=" + code, text + "&CODE=x", text + "&x=1", text + "&=",
        text + "&%ff=1", text + "&order_id=%ff",
        text + "&a=1" * 60, " " + text + "\n", text.replace("&", ";"), text.replace("=", "%3D", 1),
        text.replace("o", "%6F"), text + "%00",
        text + "&order_id=%ED%A0%80", "%7B%7D", text + "%", "code", "=", "&&&", text + "\u00a0",
        text + "\ud7ff", text + "&product_id=a%0Ab",
    ))  # fmt: skip
