"""What a script's header says is what its body does, and what Python knows."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from issuer.contract import scripts
from issuer.contract.outcomes import Outcome
from issuer.contract.scripts import Script

FIELDS = ("Why a script", "KEYS", "ARGV", "Returns", "Cost")
USED = {"USED", "USED_BEFORE"}
"""How the script says GRANTED and REPLAYED of a coupon."""
NOT_OF_THE_SCRIPT = {Outcome.NOT_READY, Outcome.NOT_REPLICATED, Outcome.OVERLOADED}


def split(script: Script) -> tuple[str, str]:
    """Header without its dashes, and body without comments."""
    head, _, body = script.text.partition("\n\n")
    header = "\n".join(line.removeprefix("--").removeprefix(" ") for line in head.splitlines())
    return header, re.sub(r"--.*", "", body)


def fields_of(header: str) -> dict[str, str]:
    parts = re.split(rf"^({'|'.join(FIELDS)}): ", header, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def highest_listed(field: str) -> int:
    """`1 state, 2 stream` lists two. What comes after them without a number is open-ended."""
    return max(int(number) for number in re.findall(r"(?:^|, |,\n *)(\d+) [a-zA-Z]", field))


def highest_used(body: str, table: str) -> int:
    return max(int(number) for number in re.findall(rf"{table}\[(\d+)\]", body))


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
def test_keys_and_arguments_are_listed(script: Script) -> None:
    header, body = split(script)
    fields = fields_of(header)
    assert highest_listed(fields["KEYS"]) == highest_used(body, "KEYS")
    assert highest_listed(fields["ARGV"]) == highest_used(body, "ARGV")


@every_script
def test_statuses_are_listed(script: Script) -> None:
    header, body = split(script)
    listed = set(re.findall(r"\{([A-Z_]+)", fields_of(header)["Returns"]))
    assert listed == set(re.findall(r"return \{'([A-Z_]+)'", body))


def test_answers_of_redeem_are_listed_and_known() -> None:
    header, body = split(scripts.REDEEM)
    listed = re.search(r"answer = one of\s+(.*)", fields_of(header)["Returns"], re.DOTALL)
    assert listed
    answers = {answer.split()[0] for answer in listed[1].replace("\n", " ").split(", ")}
    assert answers == (set(Outcome) - NOT_OF_THE_SCRIPT) | USED
    assert answers == set(re.findall(r"'([A-Z_]+) ?'", body)) & (set(Outcome) | USED)


@every_script
def test_no_time_and_no_epoch_but_the_fenced_one(script: Script) -> None:
    """Only the server's clock decides, and every script compares the epoch before it does anything.

    But the one that makes the epoch, and the one that touches nothing which an epoch protects.
    """
    header, body = split(script)
    assert "now" not in fields_of(header)["ARGV"]
    if script not in (scripts.BLESS_PARTITION, scripts.LEASE_TOKENS):
        first_write = re.search(r"'(SET|MSET|HSET|RPUSH|XADD|XACK|UNLINK|PEXPIRE|XGROUP)'", body)
        check = body.index("epoch ~=") if "epoch ~=" in body else body.index("state[1] ~=")
        assert first_write
        assert check < first_write.start()
