"""The decision of a running recovery, stored in Postgres until the server is blessed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum

import orjson

from issuer.recovery.inspection import Finding, Verdict


class RecoveryPhase(StrEnum):
    """How far a recovery came whose process was stopped. FENCED: nothing is quarantined yet."""

    FENCED = "fenced"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class RecoveryDecision:
    """What `installation.recovering` holds from the fence to the blessing.

    It outlives the process that decided. `quarantined` is the number of codes of each pool that the phase QUARANTINED
    has covered. `rebuild`: windows and kept answers are rebuilt, and no partition's clock is ahead of Redis' then,
    although nothing that was issued may be missing.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    phase: RecoveryPhase = RecoveryPhase.FENCED
    quarantined: int = 0
    rebuild: bool = False

    def continued(self, finding: Finding) -> RecoveryDecision:
        """Return the decision of the next recovery, which has come to `finding`.

        A loss stays a loss: the recovery that was stopped may have changed the data that showed it.
        """
        if self.verdict is Verdict.LOSS and finding.verdict is not Verdict.LOSS:
            return self
        return replace(self, verdict=finding.verdict, reasons=finding.reasons)

    def after_quarantine(self, bound: int) -> RecoveryDecision:
        """Return the decision once `bound` codes of each pool are quarantined."""
        return replace(self, phase=RecoveryPhase.QUARANTINED, quarantined=max(bound, self.quarantined))

    def to_json(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> RecoveryDecision:
        fields = orjson.loads(text)
        return cls(
            Verdict(fields["verdict"]), tuple(fields["reasons"]), RecoveryPhase(fields["phase"]), fields["quarantined"],
            fields["rebuild"],
        )  # fmt: skip
