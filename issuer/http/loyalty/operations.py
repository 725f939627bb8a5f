"""All operations of loyalty. Where paths overlap, the first one counts."""

from __future__ import annotations

from typing import Final

from issuer.http.loyalty import members, programs, stats
from issuer.http.operations import Operation

LOYALTY: Final[tuple[Operation, ...]] = (*programs.OPERATIONS, *stats.OPERATIONS, *members.OPERATIONS)
