"""The decision of a recovery: what a process that continues it may change, and what not."""

from __future__ import annotations

import pytest

from issuer.recovery.decision import RecoveryDecision, RecoveryPhase
from issuer.recovery.inspection import Finding, Verdict

LOSS = RecoveryDecision(Verdict.LOSS, ("pool 1 is missing",))
BOUNDED = LOSS.decided(Verdict.BOUNDED, 50)
EXACT = LOSS.decided(Verdict.EXACT, 50)


@pytest.mark.parametrize("decision", [LOSS, BOUNDED, EXACT, RecoveryDecision(Verdict.FIRST, ())])
def test_a_decision_survives_its_process(decision: RecoveryDecision) -> None:
    assert RecoveryDecision.from_json(decision.to_json()) == decision


@pytest.mark.parametrize("verdict", [Verdict.FIRST, Verdict.RESTART])
@pytest.mark.parametrize("decision", [LOSS, BOUNDED, EXACT])
def test_a_loss_stays_a_loss(decision: RecoveryDecision, verdict: Verdict) -> None:
    assert decision.continued(Finding(verdict)) == decision


def test_a_restart_becomes_a_loss_when_one_is_found() -> None:
    restart = RecoveryDecision(Verdict.RESTART, ())
    assert restart.continued(Finding(Verdict.LOSS, ("pool 1 is missing",))) == LOSS


def test_what_was_decided_stands_and_a_margin_adds_to_it() -> None:
    continued = BOUNDED.continued(Finding(Verdict.LOSS, ("announced by the operator",)))
    assert (continued.verdict, continued.phase, continued.bound) == (Verdict.BOUNDED, RecoveryPhase.DECIDED, 50)
    assert continued.decided(Verdict.BOUNDED, 20).bound == 70
    assert EXACT.bound == 0
