"""Alert rules use only existing metrics and outcomes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from issuer.contract.outcomes import Outcome
from issuer.http.metrics import exposition as metrics

FILE = Path(__file__).parents[2] / "deploy" / "prometheus-alerts.yml"


def rules() -> list[dict[str, Any]]:
    yaml: Any = importlib.import_module("yaml")
    (group,) = yaml.safe_load(FILE.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_every_metric_exists() -> None:
    used = {name for rule in rules() for name in re.findall(r"\bissuer_\w+", rule["expr"])}
    assert len(used) > 8
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in used} - set(metrics.NAMES) == set()


def test_every_outcome_exists() -> None:
    used = {name for rule in rules() for name in re.findall(r'outcome="(\w+)"', rule["expr"])}
    assert used <= {outcome.lower() for outcome in Outcome}


def test_every_rule_has_a_summary_and_a_description() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
