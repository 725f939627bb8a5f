"""Multipart forms: the charset, the boundary and the names of parts, on each route that reads one."""

from __future__ import annotations

import httpx
import pytest

from tests.support.api import UPLOAD, Api, problem
from tests.support.coupons import CONSUME, COUPON, Till

NAME = b'form-data; name="product_id"'


def part(disposition: bytes = NAME, value: bytes = b"hat", end: bytes = b"--") -> bytes:
    return b"--b\r\nContent-Disposition: " + disposition + b"\r\n\r\n" + value + b"\r\n--b" + end + b"\r\n"


async def answers(api: Api, till: Till, content_type: bytes, body: bytes) -> list[httpx.Response]:
    """What a change, a use and an upload answer to this form."""
    headers = {"content-type": content_type.decode("latin-1").encode("latin-1")}
    put = {name.encode(): value.encode() for name, value in till.admin.items()}
    use = {name.encode(): value.encode() for name, value in till.till.items()}
    admin = {name.encode(): value.encode() for name, value in api.admin.items()}
    kind = {b"Content-Type": headers["content-type"]}
    return [
        await api.client.put(f"{COUPON}FORM/", content=body, headers=put | kind),
        await api.client.post(f"{CONSUME}?code=FORM", content=body, headers=use | kind),
        await api.client.post(UPLOAD, content=body, headers=admin | kind),
    ]


@pytest.mark.parametrize(
    "charset",
    ["undefined", "punycode", "idna", "hex", "zip", "utf-7", "utf-16", "latin-1", "unicode_escape", "x", "", "\xff"],
)
@pytest.mark.asyncio(loop_scope="module")
async def test_another_charset_is_a_400(shared_api: Api, charset: str) -> None:
    shared_till = await Till.of(shared_api)
    await shared_till.make("FORM")
    content_type = f"multipart/form-data; boundary=b; charset={charset}".encode("latin-1")
    for response in await answers(shared_api, shared_till, content_type, part()):
        problem(response, 400, "the form is not UTF-8")
    assert (await shared_till.show("FORM"))["product_id"] is None


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data; boundary=b", b"multipart/form-data; boundary=b; charset=utf-8",
        b'Multipart/Form-Data; charset="UTF-8"; boundary="b"', b"MULTIPART/FORM-DATA;boundary=b",
    ],
)  # fmt: skip
@pytest.mark.asyncio(loop_scope="module")
async def test_utf_8_is_read(shared_api: Api, content_type: bytes) -> None:
    shared_till = await Till.of(shared_api)
    await shared_till.make("FORM", product_id="hät")
    changed, used, upload = await answers(shared_api, shared_till, content_type, part(value="hät".encode()))
    assert (changed.status_code, changed.json()["product_id"]) == (200, "hät")
    assert used.status_code == 200
    problem(upload, 400, "No CSV file provided")


FAULTY = {
    "no boundary": (b"multipart/form-data", part()),
    "empty boundary": (b"multipart/form-data; boundary=", part()),
    "another boundary": (b"multipart/form-data; boundary=c", part()),
    "long boundary": (b"multipart/form-data; boundary=" + b"b" * 5_000, part()),
    "boundary of RFC 2231": (b"multipart/form-data; boundary*=utf-8''b", part()),
    "boundary of another charset": (b"multipart/form-data; boundary=\xff", part()),
    "value that is not UTF-8": (b"multipart/form-data; boundary=b", part(value=b"h\xe4t")),
    "name that is not UTF-8": (b"multipart/form-data; boundary=b", part(b'form-data; name="\xe4"')),
    "name of RFC 2231": (b"multipart/form-data; boundary=b", part(b"form-data; name*=utf-8''product_id")),
    "name of RFC 2231 that is not UTF-8": (b"multipart/form-data; boundary=b", part(b"form-data; name*=utf-8''%ff")),
    "name in pieces": (b"multipart/form-data; boundary=b", part(b"form-data; name*0=product; name*1=_id")),
    "no name": (b"multipart/form-data; boundary=b", part(b"form-data")),
    "no disposition": (b"multipart/form-data; boundary=b", b"--b\r\n\r\nhat\r\n--b--\r\n"),
    "no end": (b"multipart/form-data; boundary=b", part(end=b"")),
    "broken off in a part": (b"multipart/form-data; boundary=b", part()[:-9]),
    "broken off in its fields": (b"multipart/form-data; boundary=b", part()[:20]),
    "no boundary line": (b"multipart/form-data; boundary=b", b"product_id=hat"),
    "bare line feeds": (b"multipart/form-data; boundary=b", part().replace(b"\r\n", b"\n")),
}


@pytest.mark.parametrize(("content_type", "body"), FAULTY.values(), ids=FAULTY.keys())
@pytest.mark.asyncio(loop_scope="module")
async def test_a_form_that_cannot_be_read_is_a_400(shared_api: Api, content_type: bytes, body: bytes) -> None:
    shared_till = await Till.of(shared_api)
    await shared_till.make("FORM")
    for response in await answers(shared_api, shared_till, content_type, body):
        problem(response, 400)
    shown = await shared_till.show("FORM")
    assert (shown["product_id"], shown["remaining"]) == (None, 3)
