"""The partition of a new batch: the emptiest one, unless the caller has chosen the batch's id.

The partition follows from the id, so that a redemption finds its keys without asking Postgres. The id of a batch that
the server names is therefore drawn until it leads to the partition that was chosen. The stored partition is for SQL.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID, uuid4

from issuer.contract.keys import partition_of
from issuer.storage.postgres import AnyConnection

# Among equals at random: batches that are created at the same time do not see each other.
_EMPTIEST: Final = """
SELECT partitions, (
  SELECT p FROM generate_series(0, partitions - 1) AS p
  ORDER BY (SELECT count(*) FROM batches WHERE partition = p AND ended_at IS NULL), random() LIMIT 1) AS emptiest
FROM installation"""
_PARTITIONS: Final = "SELECT partitions FROM installation"


async def place_batch(connection: AnyConnection, given: UUID | None = None) -> tuple[UUID, int]:
    """Return the id of a new batch, `given` or drawn, and its partition."""
    if given is not None:
        return given, partition_of(given, await connection.fetchval(_PARTITIONS))
    row = await connection.fetchrow(_EMPTIEST)
    assert row is not None
    while partition_of(drawn := uuid4(), row["partitions"]) != row["emptiest"]:
        pass
    return drawn, row["emptiest"]
