"""Where partitions are in a cluster, and where batches are among the partitions."""

from __future__ import annotations

import binascii

import pytest

from issuer.contract.keys import CLUSTER_SLOTS, partition_keys, partition_tag


@pytest.mark.parametrize("shards", range(1, 7))
def test_each_shard_gets_its_share_of_partitions(shards: int) -> None:
    """As `valkey-cli --cluster create` divides the slots. 64 partitions are not divisible by 3, 5 and 6."""
    ends = [round((shard + 1) * CLUSTER_SLOTS / shards) for shard in range(shards)]
    counts = [0] * shards
    for partition in range(64):
        slot = binascii.crc_hqx(partition_tag(partition).encode(), 0) % CLUSTER_SLOTS
        counts[next(shard for shard, end in enumerate(ends) if slot < end)] += 1
    assert max(counts) == -(-64 // shards)
    assert round(max(counts) / (64 / shards), 2) <= 1.03


def test_every_tag_names_its_partition() -> None:
    tags = [partition_tag(partition) for partition in range(1024)]
    assert [int(tag[1:].partition(".")[0]) for tag in tags] == list(range(1024))
    assert partition_keys(7).state == f"issuer:{{{tags[7]}}}:state"
