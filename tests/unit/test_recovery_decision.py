"""The decision of a recovery: what a process that continues it may change, and what not."""

from __future__ import annotations

import pytest

from issuer.recovery.decision import RecoveryDecision, RecoveryPhase
from issuer.recovery.inspection import Finding, Verdict

LOSS = RecoveryDecision(Verdict.LOSS, ("pool 1 is missing",))


@pytest.mark.parametrize("decision", [LOSS, LOSS.after_quarantine(50), RecoveryDecision(Verdict.FIRST, ())])
def test_a_decision_survives_its_process(decision: RecoveryDecision) -> None:
    assert RecoveryDecision.from_json(decision.to_json()) == decision


@pytest.mark.parametrize("verdict", [Verdict.FIRST, Verdict.RESTART])
def test_a_loss_stays_a_loss(verdict: Verdict) -> None:
    assert LOSS.continued(Finding(verdict)) == LOSS


def test_a_restart_becomes_a_loss_when_one_is_found() -> None:
    restart = RecoveryDecision(Verdict.RESTART, ())
    assert restart.continued(Finding(Verdict.LOSS, ("pool 1 is missing",))) == LOSS


def test_what_was_quarantined_stays_known_when_the_reasons_change() -> None:
    continued = LOSS.after_quarantine(50).continued(Finding(Verdict.LOSS, ("announced by the operator",)))
    assert (continued.phase, continued.quarantined) == (RecoveryPhase.QUARANTINED, 50)
    assert continued.after_quarantine(20).quarantined == 50
    assert continued.after_quarantine(70).quarantined == 70
