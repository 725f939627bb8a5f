"""Which caller may ask which campaign for a code, whichever way its call arrived."""

from __future__ import annotations

import time
from uuid import UUID

from issuer.access.api_keys import ApiKey
from issuer.campaigns.cache import KnownCampaign
from issuer.contract.keys import NO_API_KEY
from issuer.engine.calls import PoolRef
from issuer.engine.pool_refs import PoolRefs
from issuer.http.auth import MISSING_KEY, SCOPES, Access, wrong_scope
from issuer.http.campaigns.answers import UNKNOWN, Failure, IssueResult, issue_result_of
from issuer.http.metrics.exposition import INVALID
from issuer.http.problems.problem import ProblemError
from issuer.http.services import Services
from issuer.ids import parse_uuid


class IssuePolicy:
    """The rule that decides which caller may ask which campaign for a code, and where its pool is."""

    def __init__(self) -> None:
        self._pools: PoolRefs[str, PoolRef] = PoolRefs()

    def permitted(
        self, services: Services, campaign: KnownCampaign | None, key: ApiKey | None
    ) -> KnownCampaign | ProblemError | None:
        """Return the campaign if a caller with this key (None: without a key) may ask it for a code, or the refusal.

        None: for this caller there is no such campaign. Without a key the answer reveals nothing about campaigns that
        are not public: one that exists and one that does not are refused alike.
        """
        if campaign is not None and (campaign.public or not services.checks_keys):
            return campaign
        if not services.checks_keys:
            return None
        if key is None:
            return MISSING_KEY
        if key.scopes.isdisjoint(SCOPES[Access.REDEEM]):
            return wrong_scope(key.scopes, SCOPES[Access.REDEEM])
        if campaign is None or key.client_id not in (None, campaign.client_id):
            return None
        return campaign

    def pool(self, services: Services, campaign: KnownCampaign) -> PoolRef:
        """Return the pool of a campaign."""
        pool = self._pools.find(campaign.id)
        if pool is None:
            engine = services.engine
            pool = self._pools.add(engine, campaign.id, engine.pool_ref(UUID(campaign.id), campaign.client_id))
        return pool

    async def issue(
        self, services: Services, key: ApiKey | None, idempotency_key: str | None, campaign_id: str
    ) -> IssueResult | Failure:
        """Ask a campaign for a code and return what the library answers.

        Raises ProblemError (401, 403), LookUpsBusyError and PostgresUnavailableError.
        """
        started, outcome = time.perf_counter(), INVALID
        try:
            named = parse_uuid(campaign_id)
            known = None if named is None else await services.campaigns.look_up(named)
            campaign = self.permitted(services, known, key)
            if isinstance(campaign, ProblemError):
                raise campaign
            if campaign is None:
                return UNKNOWN
            answer = await services.engine.redeem(
                self.pool(services, campaign), None,
                api_key_id=0 if key is None else key.id, idempotency_key=idempotency_key,
                key_scope=NO_API_KEY if key is None else key.anonymous_scope,
            )  # fmt: skip
            outcome = answer.outcome
            return issue_result_of(answer)
        finally:
            services.tally.count(outcome, time.perf_counter() - started)
