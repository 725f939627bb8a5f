"""The rules of a batch: accepted and refused values, their form in Redis and in the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from issuer.batches.rules import NO_RULES, CustomerLimit, Rules, RulesError, parse_rules, parse_rules_text

DAY_MS = 86_400_000

limits = st.builds(
    lambda most, seconds: {"max": most, "seconds": seconds},
    st.integers(1, 10_000),
    st.integers(1, 315_360_000),
)
valid = st.fixed_dictionaries(
    {},
    optional={
        "maxpercustomer": st.none() | st.integers(0, 10_000),
        "timelimit": st.none() | st.integers(0, 3_650),
        "limits": st.none() | st.lists(limits, max_size=4),
    },
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(["maxpercustomer", "timelimit", "limits", "max", "seconds"]) | st.text(),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(valid)
def test_valid_rules_survive_json(value: dict[str, Any]) -> None:
    rules = parse_rules(value)
    shown = rules.to_json()
    assert parse_rules(json.loads(json.dumps(shown))) == rules
    assert isinstance(shown["maxpercustomer"], int)
    assert isinstance(shown["timelimit"], int)
    assert ("limits" in shown) == bool(value.get("limits"))


@settings(deadline=None)
@given(valid)
def test_packed_rules_contain_every_limit(value: dict[str, Any]) -> None:
    rules = parse_rules(value)
    packed = [tuple(map(int, part.split(":"))) for part in rules.packed().split(",") if part]
    assert packed == [(limit.max, limit.window_ms or 0) for limit in rules.all_limits()]
    assert len(packed) == len(value.get("limits") or []) + bool(value.get("maxpercustomer"))


@settings(deadline=None)
@given(anything)
def test_any_value_is_accepted_or_refused_with_a_message(value: object) -> None:
    try:
        rules = parse_rules(value)
    except RulesError as error:
        assert str(error).startswith("rules: ")  # noqa: PT017 - acceptance is fine, too; only the message is checked
    else:
        assert parse_rules(rules.to_json()) == rules


@settings(deadline=None)
@given(st.text(max_size=50))
def test_any_text_is_accepted_or_refused_with_a_message(text: str) -> None:
    try:
        parse_rules_text(text)
    except RulesError as error:
        assert str(error).startswith("rules: ")  # noqa: PT017


@pytest.mark.parametrize("value", [None, {}, {"maxpercustomer": 0}, {"timelimit": 0}, {"limits": []}])
def test_an_empty_value_is_no_rules(value: object) -> None:
    rules = parse_rules(value)
    assert rules == NO_RULES
    assert rules.all_limits() == ()
    assert rules.packed() == ""
    assert rules.to_json() == {"maxpercustomer": 0, "timelimit": 0}


def test_timelimit_is_the_window_of_maxpercustomer() -> None:
    rules = parse_rules({"maxpercustomer": 2, "timelimit": 30, "limits": [{"max": 1, "seconds": 60}]})
    assert rules == Rules(2, 30, (CustomerLimit(1, 60_000),))
    assert rules.all_limits() == (CustomerLimit(2, 30 * DAY_MS), CustomerLimit(1, 60_000))
    assert rules.packed() == f"2:{30 * DAY_MS},1:60000"
    assert rules.to_json() == {"maxpercustomer": 2, "timelimit": 30, "limits": [{"max": 1, "seconds": 60}]}


def test_maxpercustomer_without_timelimit_has_no_time_limit() -> None:
    assert parse_rules({"maxpercustomer": 1}).packed() == "1:0"


def test_timelimit_alone_limits_nothing_but_is_stored() -> None:
    rules = parse_rules({"timelimit": 7})
    assert rules.all_limits() == ()
    assert rules.to_json() == {"maxpercustomer": 0, "timelimit": 7}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"maxPerCustomer": 1}, "unknown key 'maxPerCustomer'"),
        ({"limits": [{"max": 1, "seconds": 1, "days": 1}]}, "limits[0]: unknown key 'days'"),
        ({"maxpercustomer": True}, "maxpercustomer must be a whole number"),
        ({"maxpercustomer": 1.0}, "maxpercustomer must be a whole number"),
        ({"maxpercustomer": "1"}, "maxpercustomer must be a whole number"),
        ({"maxpercustomer": -1}, "maxpercustomer must be 0 to 10000"),
        ({"maxpercustomer": 10_001}, "maxpercustomer must be 0 to 10000"),
        ({"timelimit": 3_651}, "timelimit must be 0 to 3650"),
        ({"limits": {}}, "limits must be a list"),
        ({"limits": [1]}, "limits[0]: must be an object"),
        ({"limits": [{"max": 1}]}, "limits[0]: needs max and seconds"),
        ({"limits": [{"max": 0, "seconds": 1}]}, "limits[0]: max must be 1"),
        ({"limits": [{"max": 1, "seconds": 0}]}, "limits[0]: seconds must be 1"),
        ({"limits": [{"max": 1, "seconds": 1}] * 5}, "limits may have at most 4 entries"),
        ([], "must be an object"),
        ("x", "must be an object"),
        (0, "must be an object"),
    ],
)
def test_invalid_rules_are_refused_and_the_key_is_named(value: object, words: str) -> None:
    with pytest.raises(RulesError) as refusal:
        parse_rules(value)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"maxpercustomer":1,"maxpercustomer":2}', "given twice"),
        ('{"maxpercustomer":NaN}', "NaN is not a number"),
        (b"\xff", "not valid JSON"),
        ('{"a":1}', "unknown key 'a'"),
    ],
)
def test_invalid_text_is_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(RulesError) as refusal:
        parse_rules_text(text)
    assert words in str(refusal.value)


def test_rules_are_parsed_from_text() -> None:
    assert parse_rules_text(' {"maxpercustomer": 2} ') == Rules(maxpercustomer=2)
    assert parse_rules_text("") == NO_RULES
    assert parse_rules_text("null") == NO_RULES
