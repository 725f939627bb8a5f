"""Rules and names of Ango: read as Go reads them, the stricter value where there is no counterpart."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from issuer.batches.rules import Rules
from issuer.importing.ango_values import BadRulesError, name_of, rules_of


@pytest.mark.parametrize(
    ("text", "rules", "noted"),
    [
        (None, Rules(), 0),
        ("null", Rules(), 0),
        ('{"maxpercustomer": 0, "timelimit": -1}', Rules(), 0),
        ('{"MaxPerCustomer": 2, "TimeLimit": 30}', Rules(2, 30), 0),
        (json.dumps('{"maxpercustomer": "3"}'), Rules(3), 0),
        ('{"maxpercustomer": 1e4, "vip": 1}', Rules(10_000), 1),
        ('{"maxpercustomer": 20000, "timelimit": 3651}', Rules(10_000), 2),
    ],
)
def test_rules_are_read(text: str | None, rules: Rules, noted: int) -> None:
    notes: list[str] = []
    assert rules_of(text, notes.append) == rules
    assert len(notes) == noted


@pytest.mark.parametrize(
    "text", ["{", "[]", "7", '{"maxpercustomer": true}', '{"timelimit": 1.5}', '{"timelimit": [1]}']
)
def test_rules_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BadRulesError):
        rules_of(text, lambda note: pytest.fail(note))


def test_a_name_that_cannot_be_one_here_is_replaced() -> None:
    notes: list[str] = []
    assert name_of("Summer", UUID(int=1), notes.append) == "Summer"
    assert name_of(None, UUID(int=1), notes.append) == "Ango 00000000"
    assert not notes
    assert name_of(str(UUID(int=2)), UUID(int=1), notes.append) == "Ango 00000000"
    assert len(notes) == 1
