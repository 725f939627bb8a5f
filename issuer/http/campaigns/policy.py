"""Who may ask for a coupon of which campaign, whichever way the call has come."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from connectrpc.code import Code

from issuer.access.api_keys import ApiKey, Scope
from issuer.campaigns.cache import KnownCampaign, LookUpsBusyError
from issuer.contract.outcomes import Outcome
from issuer.engine.calls import PoolRef
from issuer.http.campaigns.answers import NOT_READY, UNKNOWN, Failure, IssueResult, issue_result_of
from issuer.http.fields import KEY_FORM, UUID_FORM
from issuer.http.metrics.exposition import INVALID
from issuer.http.operations import MISSING_KEY, WRONG_SCOPE, ring_not_loaded
from issuer.http.problems.failures import postgres_unavailable
from issuer.http.problems.problem import outcome_problem
from issuer.http.redeem.answers import BAD_KEY_MESSAGE
from issuer.http.services import Services
from issuer.settings import Auth, Settings
from issuer.storage.postgres import PostgresUnavailableError

MAX_POOL_REFS: Final = 65_536
UNAUTHENTICATED: Final = Failure.of(MISSING_KEY)
KEYS_NOT_KNOWN: Final = Failure.of(ring_not_loaded())
FORBIDDEN: Final = Failure.of(WRONG_SCOPE)
LOOK_UP_FAILURES: Final = {
    LookUpsBusyError: Failure.of(outcome_problem(Outcome.OVERLOADED)),
    PostgresUnavailableError: Failure.of(postgres_unavailable()),
}
"""Why a campaign that nobody here knows could not be looked up."""
BAD_KEY: Final = Failure(Code.INVALID_ARGUMENT, BAD_KEY_MESSAGE)


class IssuePolicy:
    """Decides who may ask for a coupon of which campaign. Until `services` is set, which the lifespan does, nobody."""

    def __init__(self, settings: Settings) -> None:
        self.services: Services | None = None
        self._auth = settings.auth is Auth.ON
        self._pools: dict[str, PoolRef] = {}

    def caller(self, services: Services, authorization: bytes | None) -> ApiKey | Failure | None:
        """The caller's key; None: there is none, which may be enough. A key that is not valid never is."""
        if not self._auth or authorization is None:
            return None
        key = services.keys.find(authorization[7:].strip()) if authorization[:7].lower() == b"bearer " else None
        if key is None:
            return UNAUTHENTICATED if services.keys.loaded else KEYS_NOT_KNOWN
        return key

    def may_ask(self, campaign: KnownCampaign | None, key: ApiKey | None) -> IssueResult | Failure | None:
        """None: the caller may ask for a coupon. Without a key nothing is told of campaigns that are not public."""
        if campaign is not None and (campaign.public or not self._auth):
            return None
        if key is None and self._auth:
            return UNAUTHENTICATED
        if key is not None and Scope.REDEEM not in key.scopes:
            return FORBIDDEN
        if campaign is None or (key is not None and key.client_id not in (None, campaign.client_id)):
            return UNKNOWN
        return None

    def pool(self, services: Services, campaign: KnownCampaign) -> PoolRef:
        pool = self._pools.get(campaign.id)
        if pool is None:
            pool = services.engine.pool_ref(UUID(campaign.id), campaign.client_id)
            # The number of partitions is what the installation says, and that is known once Redis is reached.
            if services.engine.is_ready:
                if len(self._pools) >= MAX_POOL_REFS:
                    self._pools.clear()
                self._pools[campaign.id] = pool
        return pool

    async def issue(
        self, authorization: bytes | None, idempotency_keys: Sequence[bytes], campaign_id: str
    ) -> IssueResult | Failure:
        """The whole of it, for who can wait."""
        started, services, outcome = time.perf_counter(), self.services, INVALID
        if services is None:
            return NOT_READY
        try:
            key = self.caller(services, authorization)
            if isinstance(key, Failure):
                return key
            idempotency_key = checked_key(idempotency_keys)
            if isinstance(idempotency_key, Failure):
                return idempotency_key
            campaign = None
            if UUID_FORM.fullmatch(campaign_id):
                campaign = await services.campaigns.look_up(UUID(campaign_id))
            refusal = self.may_ask(campaign, key)
            if refusal is not None or campaign is None:
                return refusal or UNKNOWN
            answer = await services.engine.redeem(
                self.pool(services, campaign), None,
                api_key_id=0 if key is None else key.id, idempotency_key=idempotency_key,
            )  # fmt: skip
            outcome = answer.outcome
            return issue_result_of(answer)
        except (LookUpsBusyError, PostgresUnavailableError) as error:
            return LOOK_UP_FAILURES[type(error)]
        finally:
            services.tally.count(outcome, time.perf_counter() - started)


def checked_key(given: Sequence[bytes]) -> str | Failure | None:
    """The Idempotency-Key of a request that has these; None: none."""
    if not given:
        return None
    if len(given) > 1 or KEY_FORM.fullmatch(given[0]) is None:
        return BAD_KEY
    return given[0].decode("ascii")
