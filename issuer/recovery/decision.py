"""The decision of a running recovery, stored in Postgres until the server is blessed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum

import orjson

from issuer.recovery.inspection import Finding, Verdict


class RecoveryPhase(StrEnum):
    """How far a recovery came whose process was stopped. FENCED: what becomes of a loss is not decided yet."""

    FENCED = "fenced"
    DECIDED = "decided"


@dataclass(frozen=True, slots=True)
class RecoveryDecision:
    """What `installation.recovering` holds from the fence to the blessing.

    It outlives the process that decided. `verdict` is LOSS until the phase DECIDED, then EXACT or BOUNDED. `bound`: the
    number of codes of each pool beyond the highest accounted one that are quarantined. `rebuild`: windows and kept
    answers are rebuilt, and no partition's clock is ahead of Redis' then, although nothing that was issued may be
    missing.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    phase: RecoveryPhase = RecoveryPhase.FENCED
    bound: int = 0
    rebuild: bool = False

    def continued(self, finding: Finding) -> RecoveryDecision:
        """Return the decision of the next recovery, which has come to `finding`.

        A loss stays a loss: the recovery that was stopped may have changed the data that showed it. What was decided
        about it stands: nothing was issued since.
        """
        if self.phase is RecoveryPhase.DECIDED:
            return replace(self, reasons=finding.reasons or self.reasons)
        if self.verdict is Verdict.LOSS and finding.verdict is not Verdict.LOSS:
            return self
        return replace(self, verdict=finding.verdict, reasons=finding.reasons)

    def decided(self, verdict: Verdict, bound: int) -> RecoveryDecision:
        """Return the decision once it is EXACT or, with `bound` more codes of each pool, BOUNDED."""
        bound = self.bound + bound if verdict is Verdict.BOUNDED else 0
        return replace(self, verdict=verdict, phase=RecoveryPhase.DECIDED, bound=bound)

    @property
    def is_loss(self) -> bool:
        """Whether Redis is rebuilt from Postgres."""
        return self.verdict in (Verdict.LOSS, Verdict.EXACT, Verdict.BOUNDED)

    def to_json(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> RecoveryDecision:
        fields = orjson.loads(text)
        return cls(
            Verdict(fields["verdict"]), tuple(fields["reasons"]), RecoveryPhase(fields["phase"]), fields["bound"],
            fields["rebuild"],
        )  # fmt: skip
