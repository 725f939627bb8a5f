"""Limits of logins by e-mail: of what one address of the network asks for, and of the codes that one mailbox gets.

Both are counted over all processes, whether or not a member has the e-mail address. While Redis is unavailable nothing
can be counted, so no code is sent; who is signed in already stays so.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Final
from uuid import UUID

from issuer.contract.keys import limit_key
from issuer.http.limiting.lru_table import LruTable
from issuer.http.limiting.rate_limits import limit_problem
from issuer.http.metrics.tally import Tally
from issuer.http.problems.problem import not_ready
from issuer.rate_limit import RateLimit
from issuer.rate_limits.leases import Admission, AdmissionResult, Bucket, Leases, RateLimited
from issuer.settings import Settings

OF_ADDRESS: Final = RateLimit(count=120, period_s=3_600, burst=40)
"""Requests and uses of codes from one address: a shop's wireless network is one for all of its customers."""
OF_MAILBOX: Final = RateLimit(count=6, period_s=3_600, burst=5)
"""Codes for one e-mail address: with five tries each, a million codes are out of reach."""
MAX_SUBJECTS: Final = 65_536


class LoginLimits:
    """The limits in one process. Refusals are counted in `tally`."""

    def __init__(self, settings: Settings, leases: Leases, tally: Tally) -> None:
        self._leases = leases
        self._tally = tally
        self._counts_addresses = settings.counts_addresses
        self._buckets: LruTable[str, Bucket] = LruTable(MAX_SUBJECTS)

    async def admit(self, address: str, mailbox: tuple[UUID, str] | None = None, *, counted: bool = True) -> None:
        """Count a request for a code for a mailbox (program and folded address) or, with None, the use of one.

        Raises ProblemError: 429, or 503 while Redis is unavailable; without `counted` it admits the request then.
        """
        if not self._leases.is_connected:
            if not counted:
                return
            raise not_ready("logins cannot be counted while Redis is unavailable")
        buckets = []
        if self._counts_addresses:
            buckets.append(self._bucket("login_address", address, OF_ADDRESS))
        if mailbox is not None:
            hashed = sha256("\0".join(map(str, mailbox)).encode()).hexdigest()[:32]
            buckets.append(self._bucket("login_mailbox", hashed, OF_MAILBOX))
        if not buckets:
            return
        future: asyncio.Future[AdmissionResult] = asyncio.get_running_loop().create_future()
        verdict = self._leases.spend(buckets, lambda late: None if future.done() else future.set_result(late))
        if verdict is Admission.PENDING:
            verdict = await future
        if isinstance(verdict, RateLimited):
            self._tally.refuse(verdict.kind)
            raise limit_problem(verdict)

    def _bucket(self, kind: str, subject: str, limit: RateLimit) -> Bucket:
        key = limit_key(kind, subject)
        return self._buckets.of(key, lambda: Bucket(kind, key, limit))
