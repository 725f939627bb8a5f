"""Test the frame of the console: what a visitor sees in it, what it weighs, and the hashes of vendored files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from starlette.requests import Request
from starlette.responses import Response

from issuer.http.console.layout import navigation
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.layout.navigation import Place, PlaceGroup, current_path, navigation_for
from issuer.http.pages.assets import ASSETS
from issuer.http.pages.zones import show_zoned, typed_instant, zone_of
from issuer.instants import InvalidInstantError
from issuer.operators.role import Role
from tests.support.sources import ROOT

VENDORED: Final = ROOT / "issuer/http/console/layout/vendored"
LINE: Final = re.compile(r"^\| (\S+) \| npm .*? \| (\S+) \| ([0-9a-f]{64}) \| .*\((\S+)\) \|$", re.MULTILINE)
MAX_STYLE_BYTES: Final = 12_000
MAX_FRAME_BYTES: Final = 115_000
"""What a page loads at the most before its own text: it has 130 kB."""


@dataclass(frozen=True)
class Guest:
    """A visitor who is signed in."""

    request: Request
    role: Role = Role.VIEWER
    client: str | None = None
    caller_name: str = "anna"
    form_token: str = "abc"
    notice: str | None = None

    def finish(self, response: Response) -> Response:
        return response


def guest(path: str = "/console/batches/1", cookie: str = "") -> Guest:
    headers = [(b"cookie", cookie.encode())]
    return Guest(Request({"type": "http", "method": "GET", "path": path, "headers": headers, "query_string": b""}))


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = (
        PlaceGroup("Codes", (Place("Batches", "/console/batches"), Place("Batch files", "/console/batches/files"))),
        PlaceGroup("Access", (Place("Keys", "/console/keys", Role.ADMIN, installation=True),)),
        PlaceGroup("Empty", ()),
    )
    monkeypatch.setattr(navigation, "NAVIGATION", groups)


def test_a_visitor_sees_the_places_of_the_role_and_of_the_client() -> None:
    def titles(visit: Guest) -> list[str]:
        return [place.title for group in navigation_for(visit) for place in group.places]

    anna = guest()
    assert titles(anna) == ["Batches", "Batch files"]
    assert [group.title for group in navigation_for(anna)] == ["Codes"]
    assert titles(replace(anna, role=Role.ADMIN)) == ["Batches", "Batch files", "Keys"]
    assert titles(replace(anna, role=Role.ADMIN, client="band-42")) == ["Batches", "Batch files"]
    assert current_path("/console/batches/files/1") == "/console/batches/files"
    assert current_path("/console/batchesque") == ""


def test_a_screen_names_its_visitor_and_runs_only_files_of_its_own() -> None:
    page = ConsolePage("layout/frame.html", live=True, charts=True)
    visit = replace(guest(), client="<b>", notice="Saved & done")
    response = page.response(visit)
    text = bytes(response.body).decode()
    assert response.headers["cache-control"] == "no-store"
    assert "'unsafe-inline'" not in response.headers["content-security-policy"]
    assert "viewer of &lt;b&gt;" in text
    assert "Saved &amp; done" in text
    assert '<a href="/console/batches" aria-current="page">' in text
    # No style attribute, no handler, no script of the page itself: the policy would refuse them.
    assert re.search(r"<style|\sstyle=|\son[a-z]+=|<script>", text) is None
    files = page.files()
    loaded = [files.style, files.chart_style, *files.scripts]
    assert all(path in text for path in loaded if path)
    weight = sum(len(ASSETS[str(path).rpartition("/")[2]].file.content) for path in loaded)
    assert weight + len(text) <= MAX_FRAME_BYTES
    assert len(ASSETS["console.css"].file.content) <= MAX_STYLE_BYTES


def test_vendored_files_are_those_that_the_list_names() -> None:
    listed = LINE.findall((VENDORED / "VENDORED.md").read_text())
    assert {name for name, *_ in listed} == {file.name for file in VENDORED.glob("*.min.*")}
    for name, version, digest, licence in listed:
        assert version in name
        assert hashlib.sha256(Path(VENDORED / name).read_bytes()).hexdigest() == digest
        assert (VENDORED / licence).exists()


def test_times_are_shown_and_read_in_the_zone_of_the_visitor() -> None:
    friday = datetime(2026, 11, 27, 9, tzinfo=UTC)
    assert zone_of(guest(cookie="zone=Europe%2FBerlin").request) == "Europe/Berlin"
    assert zone_of(guest(cookie="zone=..%2Fetc").request) == "UTC"
    assert show_zoned(friday, "Europe/Berlin") == "Fri 27 Nov 2026, 10:00 CET"
    assert typed_instant("2026-11-27T10:00", "Europe/Berlin") == friday
    assert typed_instant("", "Europe/Berlin") is None
    wrong: list[tuple[Any, ...]] = [
        ("2026-03-29T02:30", "Europe/Berlin"), ("tomorrow", "UTC"), ("2026-11-27T10:00", "Mars"),
        ("2026-11-27T10:00Z", "UTC"), ("9999-12-31T23:59", "America/New_York"), ("0001-01-01T00:00", "Europe/Berlin"),
    ]  # fmt: skip
    for text, zone in wrong:
        with pytest.raises(InvalidInstantError):
            typed_instant(text, zone)
