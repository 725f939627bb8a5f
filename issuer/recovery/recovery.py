"""Recovery: everything between the first contact with a Redis server that is not blessed and its blessing.

Order: fence, drain the surviving stream, replay the journal, quarantine, rebuild, bless. A recovery holds an advisory
lock in Postgres, so there is one at a time. Every step can be repeated, and a decision stands once it is stored
(`RecoveryDecision`): when the process is stopped, the next one starts over at the fence and comes to the same result.
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

from issuer.recovery import rebuild
from issuer.recovery.decision import RecoveryDecision, RecoveryPhase
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
from issuer.recovery.replay import hosts_not_seen, replay_host
from issuer.recovery.serials import behind, see_receipts, see_recorded, see_states
from issuer.recovery.survey import BlessedServer, InstallationState, Survey, read_installation, read_last_blessed
from issuer.recovery.witness import testify, wait_for_reports
from issuer.settings import Settings
from issuer.storage.database_identity import read_identity, refuse_copy
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
    """What a recovery found and did."""

    epoch: int
    verdict: Verdict
    reasons: Sequence[str]
    server: ServerIdentity
    drained: int = 0
    replayed: int = 0
    journals_not_seen: list[str] = field(default_factory=list)
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

_FENCE: Final = """
UPDATE installation SET epoch = greatest(epoch, $2) + 1, run_id = NULL, recovering = $1, incident = NULL
WHERE $3 OR incident IS NULL RETURNING epoch, max_backlog"""

_ADOPT: Final = "UPDATE installation SET database = $1"

_END_ABANDONED: Final = "SELECT end_abandoned_transactions($1)"

_RECORD_BLESSING: Final = """
INSERT INTO incarnations (epoch, run_id, server, verdict, report) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (run_id) DO UPDATE SET epoch = excluded.epoch, server = excluded.server, verdict = excluded.verdict,
  report = excluded.report, blessed_at = now(), seen_at = now()"""

_BLESS: Final = "UPDATE installation SET run_id = $1, recovering = NULL WHERE incident IS NULL RETURNING true"


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
        # Once: a journal may have many receipts, and what is appended meanwhile was granted by blessed data.
        self._receipts = Floors(0, settings.partitions)
        if settings.journal_dir is not None:
            see_receipts(settings.journal_dir, self._receipts)

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
        known.see_all(self._receipts)
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

    async def _decide(self, survey: Survey) -> RecoveryDecision:
        is_ahead = any(int(state.get("blessed_epoch", 0)) > survey.installation.epoch for state in survey.states)
        if is_ahead and not self._options.forced:
            # Postgres has forgotten a blessing, and whatever else it recorded then. Only an operator can know.
            raise IncidentError(
                "Redis is ahead of Postgres: was Postgres restored from a backup? See `issuer recover --help`"
            )
        before = survey.before.identity if survey.before else None
        lower = [*await self._behind(survey.last_epoch, survey.installation.partitions), *survey.batches.behind]
        finding = judge(survey.server, before, survey.last_epoch, survey.states, survey.pools, lower)
        never_left = self._is_blessed and self._options.rebuild
        waits = not never_left and not self._options.forced and not self._options.dry_run
        if never_left and finding.verdict is Verdict.LOSS:
            # They never left this server, however it keeps them.
            doubts = contradictions_within(survey.last_epoch, survey.states, survey.pools) + survey.batches.behind
            finding = Finding(Verdict.LOSS if doubts else Verdict.RESTART, tuple(doubts))
        elif finding.verdict is Verdict.RESTART and waits:
            # Last, because it waits for the API processes. They can only turn a restart into a loss.
            if not await wait_for_reports(self._postgres, survey.last_epoch):
                lower = ["an API process is still connected to the previous server"]
            else:
                lower = await self._behind(survey.last_epoch, survey.installation.partitions)
            finding = Finding(Verdict.LOSS, tuple(lower)) if lower else finding
        if self._options.forced:
            finding = Finding(Verdict.LOSS, (*finding.reasons, "announced by the operator"))
        stopped = survey.installation.decision
        decision = stopped.continued(finding) if stopped else RecoveryDecision(finding.verdict, finding.reasons)
        rebuilds = decision.rebuild or self._options.rebuilds(survey.installation.epoch)
        return replace(decision, rebuild=rebuilds)

    def _bound(self, survey: Survey, decision: RecoveryDecision) -> int:
        """Codes of each pool to quarantine. After a quarantine only the operator's margin can add to them."""
        covered = decision.phase is RecoveryPhase.QUARANTINED
        return max(0 if covered else survey.installation.max_backlog, self._options.margin)

    async def _plan(self, survey: Survey, decision: RecoveryDecision) -> RecoveryReport:
        epoch = survey.installation.epoch + 1
        report = RecoveryReport(epoch, decision.verdict, decision.reasons, survey.server, pools=survey.pools)
        if decision.verdict is Verdict.LOSS:
            bound = self._bound(survey, decision)
            await rebuild.plan_quarantine(self._postgres, survey.pools, bound, decision)
            report.journals_not_seen = await hosts_not_seen(self._postgres, epoch)
        return report

    async def _carry_out(self, survey: Survey, decision: RecoveryDecision) -> RecoveryReport:
        # Postgres first: it assigns the epoch, so no two recoveries mark partitions with the same one. Stopped here, no
        # pair is blessed: every process answers 503 until the next recovery, which takes an epoch of its own.
        epoch, max_backlog, token = await self._fence(survey, decision)
        report = RecoveryReport(epoch, decision.verdict, decision.reasons, survey.server, pools=survey.pools)
        installation = replace(survey.installation, max_backlog=max_backlog)
        survey = replace(survey, installation=installation)
        mark = rebuild.PartitionMark(installation.id, epoch, installation.partitions, max_backlog, token)
        # From here on the server itself refuses, whichever process still has a connection to it.
        await rebuild.fence_partitions(self._link, mark)
        # Behind the fence no worker removes entries, so backlog and stream must agree.
        cut = await rebuild.find_cut_streams(self._link, mark)
        if cut and decision.verdict is not Verdict.LOSS:
            reason = f"the streams of {len(cut)} partitions lack events that their backlog counts"
            decision = replace(decision, verdict=Verdict.LOSS, reasons=(*decision.reasons, reason))
            await rebuild.store_decision(self._postgres, decision)
            report.verdict, report.reasons = decision.verdict, decision.reasons
        if decision.rebuild:
            await rebuild.set_clocks(self._link, self._postgres, mark)
        floors = Floors(epoch, mark.partitions)
        floors.see_all(await self._known(survey.last_epoch, mark.partitions))
        see_states(floors, await inspect_partitions(self._link, mark.partitions))
        if decision.verdict is Verdict.LOSS:
            await self._recover_loss(survey, decision, mark, floors, report)
        elif decision.rebuild:
            # Into the ledger, from which windows and answers are rebuilt. The pools lack nothing and stay as they are.
            report.drained = await rebuild.drain_streams(self._link, self._postgres, mark)
            await rebuild.rebuild_partitions(self._link, self._postgres, mark, ())
        elif decision.verdict is Verdict.FIRST:
            # Batches may exist before the first pool is opened, and this server need not know them.
            await rebuild.rebuild_partitions(self._link, self._postgres, mark, survey.pools)
        if decision.verdict is not Verdict.LOSS:
            for pool in survey.pools:
                pool.issued_after = pool.issued_before or 0
        await self._bless(mark, floors, report)
        quarantined = sum(pool.quarantined for pool in survey.pools)
        log.info("Redis server blessed", epoch=epoch, verdict=decision.verdict, quarantined=quarantined)
        return report

    async def _recover_loss(
        self,
        survey: Survey,
        decision: RecoveryDecision,
        mark: rebuild.PartitionMark,
        floors: Floors,
        report: RecoveryReport,
    ) -> None:
        log.warning("recovering a Redis server that may have lost redemptions", reasons=decision.reasons)
        # Stream and journal first: whatever they bring into the ledger need not be quarantined. Stopped in between, the
        # next recovery finds it there and records nothing twice.
        report.drained = await rebuild.drain_streams(self._link, self._postgres, mark)
        if self._settings.journal_dir is not None:
            replayed = await replay_host(self._postgres, self._settings.journal_dir, mark.epoch)
            report.replayed = replayed.inserted
        report.journals_not_seen = await hosts_not_seen(self._postgres, mark.epoch)
        # The point of no return: stored with the decision, in one transaction, so it happens once. Everything after it
        # is derived from Postgres and can be repeated.
        bound = self._bound(survey, decision)
        await rebuild.quarantine(self._postgres, floors, survey.pools, bound, decision)
        # Behind the quarantine: the pools are rebuilt to issue the first seq after it.
        await rebuild.rebuild_partitions(self._link, self._postgres, mark, survey.pools)

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
                        await accept_unknown(self._postgres, _tokens(survey.states))
                        await self._postgres.execute(_ADOPT, database)
                    token = await new_token(self._postgres, TokenKind.FENCE)
                return row["epoch"], row["max_backlog"], token
            except asyncpg.LockNotAvailableError:
                # No transaction takes this long. One whose worker was frozen or lost its network would hold the row
                # indefinitely; its entries stay in the stream.
                ended = await self._postgres.fetch(_END_ABANDONED, limit_s)
                log.warning("ended transactions that blocked the recovery", transactions=len(ended))

    async def _bless(self, mark: rebuild.PartitionMark, floors: Floors, report: RecoveryReport) -> None:
        # Redis first. Stopped in between, no pair is blessed in Postgres and no process trusts the server; the next
        # recovery starts with the same data. The other way round, processes would trust fenced partitions.
        await rebuild.bless_partitions(self._link, mark, floors)
        summary = report.to_json()
        del summary["pools"]
        async with self._postgres.transaction():
            await self._postgres.execute(
                _RECORD_BLESSING, mark.epoch, report.server.run_id, orjson.dumps(asdict(report.server)).decode(),
                report.verdict, orjson.dumps(summary).decode(),
            )  # fmt: skip
            # Before any process reports: data put back from before the recovery are older than this.
            await testify(self._postgres, f"recovery of epoch {mark.epoch}", "gone", mark.epoch, *floors.to_json())
            if not await self._postgres.fetchval(_BLESS, report.server.run_id):
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
