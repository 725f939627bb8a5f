"""Recovery: everything between the first contact with a Redis server that is not blessed and its blessing.

Order: fence, hear all living processes, drain the surviving stream, decide, rebuild, bless. A recovery holds an
advisory lock in Postgres, so there is one at a time. Every step can be repeated, and a decision stands once it is
stored (`RecoveryDecision`): when the process is stopped, the next one starts over at the fence and comes to the same
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import orjson
import structlog

from issuer.journal.journal import find_tokens
from issuer.recovery import quarantine, rebuild
from issuer.recovery.decision import RecoveryDecision, RecoveryPhase
from issuer.recovery.hearing import hear_processes
from issuer.recovery.inspection import (
    Finding,
    PartitionState,
    PoolState,
    ServerIdentity,
    Verdict,
    contradictions_within,
    foreign_installations,
    inspect_batches,
    inspect_partitions,
    inspect_pools,
    inspect_server,
    judge,
)
from issuer.recovery.lock import HeldLink
from issuer.recovery.restored import distrust_rows
from issuer.recovery.serials import behind, see_recorded, see_states, store_bases
from issuer.recovery.survey import BlessedServer, InstallationState, Survey, read_installation, read_last_blessed
from issuer.registration.registrations import find_open, register_recovery
from issuer.settings import Settings
from issuer.storage.database_identity import read_identity, read_timeline, refuse_copy
from issuer.storage.floors import Floors, read_floors
from issuer.storage.lineage import (
    IncidentError,
    TokenKind,
    accept_unknown,
    find_unknown,
    new_token,
    read_tokens,
    report_unknown,
)
from issuer.storage.postgres import Connection
from issuer.storage.redis_link import RedisUnavailableError

log = structlog.get_logger()


@dataclass(slots=True)
class RecoveryReport:
    """What a recovery found and did. `missing`: which registrations of the lost epochs are not settled."""

    epoch: int
    verdict: Verdict
    reasons: Sequence[str]
    server: ServerIdentity
    drained: int = 0
    missing: list[str] = field(default_factory=list)
    pools: list[PoolState] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """What an operator knows and a process cannot: see `issuer recover --help`."""

    restored: bool = False
    margin: int = 0
    dry_run: bool = False
    rebuild: bool = False
    rebuild_epoch: int | None = None
    """Only the data of this epoch are to be rebuilt; None: whatever is blessed."""

    @property
    def forced(self) -> bool:
        """Whether even the blessed server is to be recovered, as after a loss."""
        return self.restored or self.margin > 0

    def rebuilds(self, epoch: int) -> bool:
        """Whether windows and kept answers of that epoch are to be rebuilt."""
        return self.rebuild and self.rebuild_epoch in (None, epoch)


_WAS_REPLACED: Final = """
SELECT EXISTS (SELECT FROM incarnations WHERE run_id = $1 AND epoch < (SELECT max(epoch) FROM incarnations))"""

# A restored Postgres may have forgotten epochs. None that a process or a journal has is assigned again, also when the
# same copy is restored twice: the time in seconds is above all of them.
_FENCE: Final = """
UPDATE installation SET
  epoch = greatest(greatest(epoch, $2) + 1, CASE WHEN $3 THEN extract(epoch FROM clock_timestamp())::bigint END),
  run_id = NULL, recovering = $1, incident = NULL
WHERE $3 OR incident IS NULL RETURNING epoch, max_backlog"""

_ADOPT: Final = "UPDATE installation SET database = $1"

_END_ABANDONED: Final = "SELECT end_abandoned_transactions($1)"

_RECORD_BLESSING: Final = """
INSERT INTO incarnations (epoch, run_id, server, verdict, report) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (run_id) DO UPDATE SET epoch = excluded.epoch, server = excluded.server, verdict = excluded.verdict,
  report = excluded.report, blessed_at = now(), seen_at = now(), accepted_at = NULL, accepted_by = NULL"""

_BLESS: Final = """
UPDATE installation SET run_id = $1, timeline = coalesce($2, timeline), recovering = NULL WHERE incident IS NULL
RETURNING true"""


class Recovery:
    """One recovery. `postgres` holds the recovery lock; `link` is a connection to the server that passes no fence.

    `floors`: what this process has seen of the server's data.
    """

    def __init__(
        self, settings: Settings, postgres: Connection, link: HeldLink, options: RecoveryOptions, floors: Floors
    ) -> None:
        self._settings = settings
        self._postgres = postgres
        self._link = link
        self._options = options
        self._is_blessed = False
        self._floors = floors

    async def run(self) -> RecoveryReport | None:
        """Recover the server and bless it. None: it is blessed already, and no option asks for more.

        Raises IncidentError when an operator must decide, RedisUnavailableError when this server cannot be blessed now.
        """
        if not self._options.restored:
            await refuse_copy(self._postgres)
        installation = await read_installation(self._postgres)
        states = await inspect_partitions(self._link, installation.partitions)
        if others := foreign_installations(states, installation.id):
            raise IncidentError(
                f"the data in Redis belong to another installation ({', '.join(others)}), not to {installation.id}:"
                " correct ISSUER_REDIS_URL or ISSUER_DATABASE_URL; empty this Redis database only if its data are"
                " not needed"
            )
        # The run_id alone is not enough: a server that was flushed, or was a replica meanwhile, keeps it and has other
        # data; older ones may even carry the epoch.
        self._is_blessed = (
            installation.run_id == self._link.run_id
            and all(state.get("epoch") == str(installation.epoch) for state in states)
            and not await self._behind(installation.epoch, installation.partitions)
        )
        wanted = self._options.forced or self._options.dry_run or self._options.rebuilds(installation.epoch)
        if self._is_blessed and not wanted:
            return None
        if not self._options.restored:
            await self._refuse_incident(installation, states)
        survey = await self._survey(installation, states)
        decision = await self._decide(survey)
        if self._options.dry_run:
            return await self._plan(survey, decision)
        return await self._carry_out(survey, decision)

    async def _behind(self, epoch: int, partitions: int) -> list[str]:
        """Return why the data are not all that there was in an epoch; an empty list if they may be.

        What is known is read first: another process may have blessed these data, and they grow while it issues. Read
        first, they would be below what was reported of them since.
        """
        known = await self._known(epoch, partitions)
        return behind(await inspect_partitions(self._link, partitions), known)

    async def _known(self, epoch: int, partitions: int) -> Floors:
        """Return the serials and beats that the data of an epoch must have at least."""
        known = await read_floors(self._postgres, epoch, partitions)
        if self._floors.epoch == epoch:
            known.see_all(self._floors)
        await see_recorded(self._postgres, known)
        return known

    async def _refuse_incident(self, installation: InstallationState, states: Sequence[PartitionState]) -> None:
        """Raise IncidentError if there is one, or if the data set has a token that Postgres does not know."""
        incident = installation.incident
        unknown = await find_unknown(self._postgres, _tokens(states))
        if unknown and not incident:
            incident = await report_unknown(self._postgres, unknown, "Redis")
        if incident:
            raise IncidentError(incident)

    async def _survey(self, installation: InstallationState, states: Sequence[PartitionState]) -> Survey:
        server = await inspect_server(self._link, _address(self._settings))
        before = await read_last_blessed(self._postgres)
        # Before the pools: reading all of them takes a while, and an unfit server is met again every 0.2 s.
        await self._refuse_unfit(server, installation.run_id, before)
        batches = await inspect_batches(self._link, self._postgres, installation.partitions)
        if batches.unknown and not self._options.restored:
            raise IncidentError(await report_unknown(self._postgres, batches.unknown, "a batch in Redis"))
        pools = await inspect_pools(self._link, self._postgres, installation.partitions)
        return Survey(installation, states, server, before, pools, batches)

    async def _refuse_unfit(
        self, server: ServerIdentity, blessed_run_id: str | None, before: BlessedServer | None
    ) -> None:
        if server.role != "master":
            raise RedisUnavailableError(f"this server is a {server.role}, not a primary")
        if server.evicting:
            raise IncidentError("maxmemory-policy must be noeviction: any other policy deletes codes and limits")
        if await self._postgres.fetchval(_WAS_REPLACED, server.run_id):
            raise IncidentError("this Redis server was replaced by another one and must not issue codes again")
        if blessed_run_id is None or server.run_id == blessed_run_id or before is None:
            return
        # Two servers that answer at once: a network partition, or a new address that not every process has yet. The
        # old server may still issue, so it must be silent first.
        if before.is_alive and before.identity.address != server.address:
            raise RedisUnavailableError("the blessed Redis server was alive a moment ago; not blessing another one yet")

    async def _judge(self, survey: Survey, *, heard: bool = False) -> Finding:
        """Judge the data as they are. Until all processes were `heard` of, they can still turn out to be lost."""
        is_ahead = any(int(state.get("blessed_epoch", 0)) > survey.installation.epoch for state in survey.states)
        if is_ahead and not self._options.forced:
            # Postgres has forgotten a blessing, and whatever else it recorded then. Only an operator can know.
            raise IncidentError(
                "Redis is ahead of Postgres: was Postgres restored from a backup? See `issuer recover --help`"
            )
        before = survey.before.identity if survey.before else None
        lower = [*await self._behind(survey.last_epoch, survey.installation.partitions), *survey.batches.behind]
        # The living will have settled once they were heard of.
        open_ones = await find_open(self._postgres, *survey.lost)
        all_settled = not any(heard or not registration.is_alive for registration in open_ones)
        finding = judge(
            survey.server, before, survey.last_epoch, survey.states, survey.pools, lower, all_settled=all_settled
        )
        if self._is_blessed and self._options.rebuild and finding.verdict is Verdict.LOSS:
            # They never left this server, however it keeps them.
            doubts = contradictions_within(survey.last_epoch, survey.states, survey.pools) + survey.batches.behind
            finding = Finding(Verdict.LOSS if doubts else Verdict.RESTART, tuple(doubts))
        if self._options.forced:
            finding = Finding(Verdict.LOSS, (*finding.reasons, "announced by the operator"))
        return finding

    async def _decide(self, survey: Survey) -> RecoveryDecision:
        finding = await self._judge(survey)
        stopped = survey.installation.decision
        if self._options.restored and survey.installation.incident:
            # What was decided in an earlier state of this Postgres was carried out, and more was issued since.
            stopped = None
        decision = stopped.continued(finding) if stopped else RecoveryDecision(finding.verdict, finding.reasons)
        rebuilds = decision.rebuild or self._options.rebuilds(survey.installation.epoch)
        return replace(decision, rebuild=rebuilds)

    def _bound(self, survey: Survey, decision: RecoveryDecision) -> int:
        """Codes of each pool to quarantine. After a decision only an operator can add to them."""
        if decision.phase is RecoveryPhase.DECIDED and not (self._options.forced and decision.bound == 0):
            return max(0, self._options.margin - decision.bound)
        return max(survey.installation.max_backlog, self._options.margin)

    async def _plan(self, survey: Survey, decision: RecoveryDecision) -> RecoveryReport:
        epoch = survey.installation.epoch + 1
        report = RecoveryReport(epoch, decision.verdict, decision.reasons, survey.server, pools=survey.pools)
        if decision.is_loss:
            bound = self._bound(survey, decision)
            # Those of living processes will be settled.
            missing = [found for found in await find_open(self._postgres, *survey.lost) if not found.is_alive]
            report.missing = [str(registration) for registration in missing]
            if decision.phase is RecoveryPhase.FENCED:
                decision = decision.decided(
                    Verdict.BOUNDED if missing or self._options.forced else Verdict.EXACT, bound
                )
            report.verdict = decision.verdict
            await quarantine.plan(self._postgres, survey.pools, decision, bound)
        return report

    async def _carry_out(self, survey: Survey, decision: RecoveryDecision) -> RecoveryReport:
        # Postgres first: it assigns the epoch, so no two recoveries mark partitions with the same one. Stopped here, no
        # pair is blessed: every process answers 503 until the next recovery, which takes an epoch of its own.
        epoch, max_backlog, token = await self._fence(survey, decision)
        survey.installation = installation = replace(survey.installation, max_backlog=max_backlog)
        mark = rebuild.PartitionMark(installation.id, epoch, installation.partitions, max_backlog, token)
        # From here on the server itself refuses, whichever process still has a connection to it.
        await rebuild.fence_partitions(self._link, mark)
        if decision.phase is RecoveryPhase.FENCED:
            decision = await self._hear(survey, decision, mark)
        if decision.rebuild:
            await rebuild.set_clocks(self._link, self._postgres, mark)
        floors = Floors(epoch, mark.partitions)
        floors.see_all(await self._known(survey.last_epoch, mark.partitions))
        see_states(floors, await inspect_partitions(self._link, mark.partitions))
        report = RecoveryReport(epoch, decision.verdict, decision.reasons, survey.server, pools=survey.pools)
        if decision.is_loss:
            await self._recover_loss(survey, decision, mark, floors, report)
        elif decision.rebuild:
            # Into the ledger, from which windows and answers are rebuilt. The pools lack nothing and stay as they are.
            report.drained = await rebuild.drain_streams(self._link, self._postgres, mark)
            await rebuild.rebuild_partitions(self._settings, self._link, self._postgres, mark, ())
        elif decision.verdict is Verdict.FIRST:
            # Batches may exist before the first pool is opened, and this server need not know them.
            await rebuild.rebuild_partitions(self._settings, self._link, self._postgres, mark, survey.pools)
        if not decision.is_loss:
            for pool in survey.pools:
                pool.issued_after = pool.issued_before or 0
        await self._bless(mark, floors, report, is_loss=decision.is_loss)
        quarantined = sum(pool.quarantined for pool in survey.pools)
        log.info("Redis server blessed", epoch=epoch, verdict=report.verdict, quarantined=quarantined)
        return report

    async def _hear(self, survey: Survey, decision: RecoveryDecision, mark: rebuild.PartitionMark) -> RecoveryDecision:
        """Judge the data again once no process receives answers any more. That can only turn out to be a loss."""
        await hear_processes(self._settings, self._postgres, survey.installation.id, survey.lost, epoch=mark.epoch)
        survey.states = await inspect_partitions(self._link, mark.partitions)
        survey.pools = await inspect_pools(self._link, self._postgres, mark.partitions)
        decision = decision.continued(await self._judge(survey, heard=True))
        # Behind the fence no worker removes entries, so backlog and stream must agree.
        cut = await rebuild.find_cut_streams(self._link, mark)
        if cut and not decision.is_loss:
            reason = f"the streams of {len(cut)} partitions lack events that their backlog counts"
            decision = replace(decision, verdict=Verdict.LOSS, reasons=(*decision.reasons, reason))
            await rebuild.store_decision(self._postgres, decision)
        return decision

    async def _recover_loss(
        self,
        survey: Survey,
        decision: RecoveryDecision,
        mark: rebuild.PartitionMark,
        floors: Floors,
        report: RecoveryReport,
    ) -> None:
        log.warning("recovering a Redis server that may have lost redemptions", reasons=decision.reasons)
        # The stream first: whatever it brings into the ledger need not be quarantined. Stopped in between, the next
        # recovery finds it there and records nothing twice.
        report.drained = await rebuild.drain_streams(self._link, self._postgres, mark)
        # The point of no return: stored with the decision, in one transaction, so it happens once. Everything after it
        # is derived from Postgres and can be repeated.
        failed_over = survey.installation.timeline not in (None, await read_timeline(self._postgres))
        if failed_over:
            report.reasons = (*report.reasons, "a standby has taken the place of Postgres since the last blessing")
        decision = await quarantine.decide(
            self._postgres, floors, survey.pools, decision, survey.lost, bound=self._bound(survey, decision),
            forced=self._options.forced or failed_over,
        )  # fmt: skip
        report.verdict = decision.verdict
        report.missing = [str(found) for found in await find_open(self._postgres, *survey.lost)]
        for registration in report.missing:
            log.warning("not everything that was answered is known, so codes are quarantined", missing=registration)
        # Behind the decision: the pools are rebuilt to issue the first seq after it.
        await rebuild.rebuild_partitions(self._settings, self._link, self._postgres, mark, survey.pools)

    async def _fence(self, survey: Survey, decision: RecoveryDecision) -> tuple[int, int, UUID]:
        """Take the blessing from every server and store the decision. Return the new epoch, the bound and the token.

        The bound is that of this moment: it is lowered only under the epoch in which Redis enforces it. From here until
        the blessing nothing is issued or acknowledged.
        """
        limit_s = self._settings.postgres_timeout_s
        # Outside of the transaction, which a forbidden function would end.
        database = await read_identity(self._postgres)
        # Redis is ahead where Postgres was restored from a backup. A partition accepts no lower epoch than its own.
        highest = max(abs(int(state.get("epoch", 0))) for state in survey.states)
        while True:
            try:
                async with self._postgres.transaction():
                    await self._postgres.execute(f"SET LOCAL lock_timeout = {int(limit_s * 1000)}")
                    # Waits for the workers' transactions, which lock the row: they end before the fence or not at all.
                    accepts = self._options.restored
                    row = await self._postgres.fetchrow(_FENCE, decision.to_json(), highest, accepts)
                    if row is None:
                        raise IncidentError("an incident began during this recovery; see `issuer status`")
                    if accepts:
                        await accept_unknown(self._postgres, self._all_tokens(survey))
                        await distrust_rows(self._postgres)
                        await self._postgres.execute(_ADOPT, database)
                    token = await new_token(self._postgres, TokenKind.FENCE)
                return row["epoch"], row["max_backlog"], token
            except asyncpg.LockNotAvailableError:
                # No transaction takes this long. One whose worker was frozen or lost its network would hold the row
                # indefinitely; its entries stay in the stream.
                ended = await self._postgres.fetch(_END_ABANDONED, limit_s)
                log.warning("ended transactions that blocked the recovery", transactions=len(ended))

    def _all_tokens(self, survey: Survey) -> list[UUID]:
        """Return the tokens that Redis and the journals of this host keep."""
        directory = self._settings.journals
        kept = [] if directory is None else find_tokens(directory, survey.installation.id)
        return [*_tokens(survey.states), *kept]

    async def _bless(
        self, mark: rebuild.PartitionMark, floors: Floors, report: RecoveryReport, *, is_loss: bool
    ) -> None:
        # Redis first. Stopped in between, no pair is blessed in Postgres and no process trusts the server; the next
        # recovery starts with the same data. The other way round, processes would trust fenced partitions.
        await rebuild.bless_partitions(self._link, mark, floors)
        # After a restart the registrations of earlier epochs still count, so their timeline does.
        timeline = await read_timeline(self._postgres) if report.verdict is not Verdict.RESTART else None
        summary = replace(report, pools=[]).to_json()
        del summary["pools"]
        async with self._postgres.transaction():
            await self._postgres.execute(
                _RECORD_BLESSING, mark.epoch, report.server.run_id, orjson.dumps(asdict(report.server)).decode(),
                report.verdict, orjson.dumps(summary).decode(),
            )  # fmt: skip
            if not is_loss:
                # What these data lack was answered to no caller, and its serials are assigned again.
                await store_bases(self._postgres, floors, after_loss=False)
            # Before any process reports: data put back from before the recovery are older than this.
            await register_recovery(self._postgres, mark.epoch, *floors.to_json())
            if not await self._postgres.fetchval(_BLESS, report.server.run_id, timeline):
                raise IncidentError("an incident began during this recovery; see `issuer status`")
            await new_token(self._postgres, TokenKind.BLESSING)


def _tokens(states: Sequence[PartitionState]) -> list[UUID]:
    return list(read_tokens(state.get("lineage", "") for state in states))


def _address(settings: Settings) -> str:
    parts = urlsplit(settings.redis_url.get_secret_value())
    if parts.scheme == "unix":
        return parts.path
    if parts.scheme == "sentinel":
        return f"sentinel:{parts.path}"
    return f"{parts.hostname}:{parts.port or 6379}{parts.path}"
