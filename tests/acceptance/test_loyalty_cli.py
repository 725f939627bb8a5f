"""`issuer loyalty`, with the answers and the audit entries of the HTTP routes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from issuer.settings import Settings
from tests.support.command import CommandInProcess


@pytest.fixture
def loyalty(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandInProcess:
    return CommandInProcess(settings, tmp_path, monkeypatch, "loyalty")


@pytest.mark.long
def test_an_operator_runs_a_program_from_its_terms_to_the_erasure_of_a_member(
    loyalty: CommandInProcess, settings: Settings
) -> None:
    clients = CommandInProcess(settings, loyalty.directory, loyalty.monkeypatch, "clients")
    assert clients("create", "tea-house").status == 0
    terms = '{"earn":{"points":1,"per":"1.00","currency":"GBP"},"min_spend":5}'
    words = ("--name", "Tea club", "--client", "tea-house", "--timezone", "Europe/London", "--terms", terms, "--json")
    program = loyalty("programs", "create", *words).json
    assert program["terms"]["min_spend"] == 5
    changed = loyalty("programs", "change", "Tea club", "--terms", '{"min_spend":2}', "--json").json
    assert (changed["terms_number"], changed["terms"]) == (2, {**program["terms"], "min_spend": 2})
    row = loyalty("programs", "list").out.splitlines()[1].split()
    assert row == ["Tea", "club", "points", "active", "2", "Europe/London", "tea-house", program["id"]]

    anna = loyalty(
        "members", "create", "Tea club", "--ref", "c-7", "--name", "Anna", "--email", "a@example.org", "--json"
    )
    assert loyalty("members", "show", "Tea club", "c-7", "--json").json == anna.json
    assert loyalty("members", "change", program["id"], "c-7", "--email", "", "--json").json["email"] is None
    taken = loyalty("members", "create", "Tea club", "--ref", "c-7")
    assert (taken.status, taken.err) == (2, "error: another member has this ref\n")

    entries = ("entries", "earn", "Tea club", "c-7", "30")
    assert loyalty(*entries, "--dry-run").out == "entry 1-1: earn 30; available would be 30, debt 0\n"
    assert loyalty(*entries).out == "entry 1-1: earn 30; available is 30, debt 0\n"
    refused = loyalty("entries", "spend", "Tea club", "c-7", "31")
    assert (refused.status, refused.err) == (1, "error: insufficient points: 30 available, debt 0\n")
    assert loyalty("entries", "spend", "Tea club", "c-7", "10", "--json").json["balance"]["available"] == 20
    adjusted = loyalty("entries", "adjust", "Tea club", "c-7", "--reason", "counted twice", "--", "-25")
    assert adjusted.status == 1
    as_debt = ("--reason", "counted twice", "--allow-debt", "--", "-25")
    assert loyalty("entries", "adjust", "Tea club", "c-7", *as_debt).out.endswith("available is 0, debt 5\n")
    listed = loyalty("entries", "list", "Tea club", "c-7", "--json").json
    assert [(entry["op"], entry["change"]) for entry in listed] == [("adjust_down", -25), ("spend", -10), ("earn", 30)]
    assert loyalty("members", "list", "Tea club", "-q", "ann").out.splitlines()[1].split()[:6] == [
        "Anna", "c-7", "-", "0", "0", "5",
    ]  # fmt: skip
    stats = loyalty("programs", "stats", "Tea club", "--json").json
    assert (stats["total"]["earned"], stats["redemption_rate"], stats["debts"]["points"]) == (30, "0.3333", 5)
    exported = loyalty("programs", "export", "--program", "Tea club", "--format", "ndjson")
    assert exported.out.count('"entry_id"') == 3
    person = loyalty("members", "export-person", "Tea club", "c-7", "--json").json
    assert (person["members"][0]["name"], len(person["entries"])) == ("Anna", 3)
    code = loyalty("login-code", "Tea club", "new@example.org").out.splitlines()[0]
    assert re.fullmatch("[0-9]{3} [0-9]{3}", code)
    loyalty("programs", "change", "Tea club", "--terms", '{"self_join":false}')
    refused = loyalty("login-code", "Tea club", "new@example.org")
    assert (refused.status, refused.err.splitlines()[0]) == (2, "error: no member has this address")
    assert loyalty("members", "erase", "Tea club", "c-7", "--yes").out == f"member {anna.json['id']} is erased\n"
    assert loyalty("members", "show", "Tea club", "c-7").status == 2


def test_invalid_input_exits_with_2_and_says_what_is_wrong(loyalty: CommandInProcess) -> None:
    for words, what in (
        (("programs", "create", "--name", "Tea"), "give --client, or set ISSUER_DEFAULT_CLIENT"),
        (("programs", "show", "Tea"), "no program has the name or id 'Tea'"),
        (("programs", "create", "--name", "T", "--client", "unknown"), "issuer clients create unknown"),
        (("members", "list", "Tea"), "issuer loyalty programs list"),
    ):
        done = loyalty(*words)
        assert (done.status, done.out) == (2, "")
        assert what in done.err


@pytest.mark.long
def test_an_operator_issues_prints_assigns_and_replaces_cards(loyalty: CommandInProcess, settings: Settings) -> None:
    clients = CommandInProcess(settings, loyalty.directory, loyalty.monkeypatch, "clients")
    assert clients("create", "tea-house").status == 0
    for name, unit in (("Tea club", "points"), ("Vouchers", "EUR")):
        assert loyalty("programs", "create", "--name", name, "--client", "tea-house", "--unit", unit).status == 0
    assert loyalty("members", "create", "Tea club", "--ref", "c-7").status == 0
    run = loyalty("cards", "issue", "Tea club", "--count", "3", "--json").json
    first, second, _ = (card["number"] for card in run["items"])
    assert loyalty("cards", "assign", "Tea club", first.lower(), "c-7", "--json").json["state"] == "assigned"
    new = loyalty("cards", "replace", "Tea club", first, "--json").json["number"]
    assert loyalty("cards", "revoke", "Tea club", second, "--json").json["state"] == "revoked"
    listed = loyalty("cards", "list", "Tea club", "--json").json
    states = [card["state"] for card in listed]
    assert (states, listed[3]["number"]) == (["revoked", "revoked", "blank", "assigned"], new)
    file = loyalty.directory / "cards.pdf"
    assert loyalty("cards", "print", "Tea club", run["run_id"], str(file)).out == f"1 cards are in {file}\n"
    assert file.read_bytes().startswith(b"%PDF-")
    (gift,) = loyalty("cards", "issue", "Vouchers", "--amount", "25.00", "--json").json["items"]
    assert gift["state"] == "gift"
    refused = loyalty("cards", "issue", "Tea club", "--amount", "25")
    assert (refused.status, "--amount is for gift cards" in refused.err) == (2, True)
    gone = loyalty("cards", "assign", "Tea club", second, "c-7")
    assert (gone.status, gone.err) == (2, "error: the card was revoked, and that is final\n")
