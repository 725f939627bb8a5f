"""Earn and spend over a real socket: the fast path answers what the ASGI path does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx

from issuer.settings import Auth, Settings
from tests.support.api_process import ApiProcess

PROGRAMS: Final = "/api/v1/loyalty/programs"
RATE: Final = {"points": 1, "per": "1.00", "currency": "EUR"}
REFUSED: Final[dict[str, tuple[int, str, str, bytes]]] = {
    "no program": (404, "program_not_found", f"{PROGRAMS}/{uuid4()}/members/anna/spend", b'{"points": 1}'),
    "no member": (404, "member_not_found", "berta/spend", b'{"points": 1}'),
    "no JSON": (400, "unparsable_json", "anna/spend", b"{"),
    "a name twice": (400, "unparsable_json", "anna/spend", b'{"points": 1, "points": 1}'),
    "an unknown field": (400, "invalid_request", "anna/spend", b'{"point": 1}'),
    "a fraction": (400, "invalid_amount", "anna/spend", b'{"points": 1.5}'),
    "too many": (403, "insufficient_points", "anna/spend", b'{"points": 1000000}'),
    "another currency": (400, "other_currency", "anna/earn", b'{"amount":"1","order_id":"1","currency":"USD"}'),
}


def chunked(body: bytes) -> Iterator[bytes]:
    """Chunked bodies take the ASGI path."""
    yield body


def test_both_paths_answer_alike_and_count_a_key_once(settings: Settings, tmp_path: Path) -> None:
    settings = settings.model_copy(update={"auth": Auth.OFF})
    with ApiProcess(settings, tmp_path) as process, httpx.Client(base_url=process.wait_until_ready().url) as http:
        program = http.post(PROGRAMS, json={"name": "Tea", "client": str(uuid4()), "terms": {"earn": RATE}}).json()
        members = f"{PROGRAMS}/{program['id']}/members"
        http.post(members, json={"ref": "anna"})
        assert http.post(f"{members}/anna/earn", json={"points": 100}).status_code == 201

        for why, (status, code, path, body) in REFUSED.items():
            url = path if path.startswith("/") else f"{members}/{path}"
            short, long = http.post(url, content=body), http.post(url, content=chunked(body))
            assert (short.status_code, short.json()["code"]) == (status, code), f"{why}: {short.text}"
            assert (long.status_code, long.json()) == (status, short.json()), why

        key = {"Idempotency-Key": "k", "Content-Type": "application/json"}
        first = http.post(f"{members}/anna/spend", json={"points": 7}, headers=key)
        assert (first.status_code, first.json()["balance"]["available"]) == (201, 93)
        again = http.post(f"{members}/anna/spend", content=chunked(b'{"points":7}'), headers=key)
        assert (again.status_code, again.json(), again.headers["idempotency-replayed"]) == (201, first.json(), "true")
        again = http.post(f"{members}/anna/spend", json={"points": 7}, headers=key)
        assert (again.status_code, again.json(), again.headers["idempotency-replayed"]) == (201, first.json(), "true")
        assert fields(first) == fields(http.post(f"{members}/anna/spend", content=chunked(b'{"points":1}')))
        # Encoded, by name and with a query: the ASGI path.
        tried = f"{members}/anna/spend?dry_run=true"
        paths = (f"{PROGRAMS}/Tea/members/ann%61/spend", tried, tried)
        balances = [http.post(path, json={"points": 2}).json()["balance"]["available"] for path in paths]
        assert balances == [90, 88, 88]


def fields(response: httpx.Response) -> dict[str, Any]:
    """The header fields of an answer but those that differ from one to the next."""
    return {name: value for name, value in response.headers.items() if name not in ("date", "content-length")}
