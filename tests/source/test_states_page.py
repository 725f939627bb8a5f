"""docs/states.md draws the states that the code has."""

from __future__ import annotations

import re
from typing import Final

import pytest

from issuer.campaigns.campaign import CampaignState
from issuer.generating.jobs import JobState
from issuer.loyalty.account import HoldState, MoveState
from issuer.loyalty.hooks.inbox import InboxState
from issuer.recovery.inspection import Verdict
from tests.support.sources import ROOT

TEXT: Final = (ROOT / "docs" / "states.md").read_text()
EDGE: Final = re.compile(r"    (\[\*\]|\w+) --> (\[\*\]|\w+)(?:: ([^;:]+))?")
DIAGRAMS: Final = {
    heading: re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", section, re.DOTALL)
    for heading, section in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
}


def edges_of(diagram: str) -> list[tuple[str, str, str]]:
    """Return the transitions; a line that Mermaid would read otherwise, such as one with a semicolon, fails."""
    found = [EDGE.fullmatch(line) for line in diagram.splitlines()]
    assert all(found), [line for line, edge in zip(diagram.splitlines(), found, strict=True) if not edge]
    return [(edge[1], edge[2], edge[3] or "") for edge in found if edge]


def states_of(heading: str) -> set[str]:
    return {state for edge in edges_of(DIAGRAMS[heading][0]) for state in edge[:2]} - {"[*]"}


@pytest.mark.parametrize("heading", DIAGRAMS)
def test_every_state_can_be_reached(heading: str) -> None:
    assert DIAGRAMS[heading]
    for diagram in DIAGRAMS[heading]:
        edges = edges_of(diagram)
        reached = {"[*]"}
        for _ in edges:
            reached |= {target for source, target, _ in edges if source in reached}
        assert {state for edge in edges for state in edge[:2]} <= reached


def test_campaigns_jobs_holds_and_moves_have_the_states_of_the_code() -> None:
    assert states_of("Campaign") == {state.value for state in CampaignState}
    assert states_of("Generation job") == {state.value for state in JobState}
    assert states_of("Delivery of a shop") == {state.value for state in InboxState}
    assert states_of("Hold of points") == {state.value for state in HoldState}
    assert states_of("Move of points") == {state.value for state in MoveState}


def test_each_verdict_leads_on_from_hearing_and_from_the_decision() -> None:
    labels = {label for source, _, label in edges_of(DIAGRAMS["Recovery"][0]) if source in ("Heard", "StreamsDrained")}
    assert labels == {verdict.value for verdict in Verdict}
