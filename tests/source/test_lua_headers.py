"""The header of a script states what its body does and what Python knows. `tests/conformance` checks the costs."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from issuer.contract import scripts
from issuer.contract.outcomes import Outcome
from issuer.contract.scripts import Script
from tests.support.lua_headers import FIELDS, fields_of, split

USED = {"USED", "USED_BEFORE"}
"""The words of the script for GRANTED and REPLAYED of a coupon."""
NOT_OF_THE_SCRIPT = {Outcome.NOT_READY, Outcome.NOT_REPLICATED, Outcome.OVERLOADED}
OPEN_ENDED = {table: rf"#{table}|{table}\[(?!\d+\])" for table in ("KEYS", "ARGV")}
"""How a body reads keys or arguments whose number the call decides."""


def listed(field: str) -> list[int]:
    """`1 state, 2 stream` lists two. What follows them without a number is open-ended."""
    return [int(number) for number in re.findall(r"(?:^|, |,\n *)(\d+) [a-zA-Zµ]", field)]


def used(body: str, table: str) -> set[int]:
    return {int(number) for number in re.findall(rf"{table}\[(\d+)\]", body)}


def items(text: str) -> int:
    """The number of items between commas that are in no bracket and in no string."""
    depth, count = 0, 1
    for character in re.sub(r"'[^']*'", "", text):
        depth += (character in "({[") - (character in ")}]")
        count += character == "," and depth == 0
    return count


def returned(body: str) -> set[tuple[str, int]]:
    """Status and number of items of every table that the body returns."""
    found = set()
    for match in re.finditer(r"return \{'([A-Z_]+)'", body):
        depth, at = 1, body.index("{", match.start()) + 1
        while depth:
            depth += (body[at] == "{") - (body[at] == "}")
            at += 1
        found.add((match[1], items(body[body.index("{", match.start()) + 1 : at - 1])))
    return found


every_script = pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)


def test_every_file_is_known() -> None:
    there = {entry.name.removesuffix(".lua") for entry in files("issuer.contract").joinpath("lua").iterdir()}
    assert there == {script.name for script in scripts.ALL}


@every_script
def test_header_is_complete(script: Script) -> None:
    header, _ = split(script)
    assert tuple(fields_of(header)) == FIELDS
    assert header.splitlines()[0].endswith((".", ","))


@every_script
@pytest.mark.parametrize("table", ["KEYS", "ARGV"])
def test_keys_and_arguments_are_listed(script: Script, table: str) -> None:
    """Each number once, in order, and each of them used; "then" where the call decides how many follow."""
    header, body = split(script)
    field = fields_of(header)[table]
    assert listed(field) == sorted(used(body, table))
    assert listed(field) == list(range(1, len(listed(field)) + 1))
    assert ("then" in field) == bool(re.search(OPEN_ENDED[table], body))


@every_script
def test_statuses_are_listed(script: Script) -> None:
    """With as many items as the body returns."""
    header, body = split(script)
    forms = re.findall(r"\{([A-Z_]+)([^}]*)\}", fields_of(header)["Returns"])
    assert {(status, items(rest)) for status, rest in forms} == returned(body)


def test_answers_of_redeem_are_listed_and_known() -> None:
    header, body = split(scripts.REDEEM)
    listed_answers = re.search(r"answer = one of\s+(.*)", fields_of(header)["Returns"], re.DOTALL)
    assert listed_answers
    answers = {answer.split()[0] for answer in listed_answers[1].replace("\n", " ").split(", ")}
    assert answers == (set(Outcome) - NOT_OF_THE_SCRIPT) | USED
    assert answers == set(re.findall(r"'([A-Z_]+) ?'", body)) & (set(Outcome) | USED)


@every_script
def test_no_time_and_no_epoch_but_the_fenced_one(script: Script) -> None:
    """Only the server's clock decides, and every script compares the epoch before it does anything.

    Two exceptions: the script that sets the epoch, and the one that touches nothing which an epoch protects.
    """
    header, body = split(script)
    assert "now" not in fields_of(header)["ARGV"]
    if script not in (scripts.BLESS_PARTITION, scripts.LEASE_TOKENS):
        first_write = re.search(r"'(SET|MSET|HSET|HINCRBY|RPUSH|XADD|XACK|UNLINK|PEXPIRE|XGROUP)'", body)
        check = body.index("epoch ~=") if "epoch ~=" in body else body.index("state[1] ~=")
        assert first_write
        assert check < first_write.start()
