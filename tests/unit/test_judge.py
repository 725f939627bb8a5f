"""The verdict on a Redis server: each single reason makes a loss of what would be a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from issuer.recovery.inspection import Finding, PartitionState, PoolState, ServerIdentity, Verdict, judge

SERVER = ServerIdentity("run", "9.0", "10.0.0.1:6379/0", "/data", True, "master", False, False, 0)
STATES: list[PartitionState] = [{"blessed_epoch": "7"}, {"blessed_epoch": "7"}]


def pool(**changes: Any) -> PoolState:
    found = PoolState(1, UUID(int=1), UUID(int=2), 0, 100, 30, True, False)
    found.issued_before, found.loaded_before, found.in_list = 40, 100, 60
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_the_same_data_are_a_restart() -> None:
    assert judge(SERVER, SERVER, 7, STATES, [pool(), pool(opened=False, issued_before=None)]).verdict is Verdict.RESTART


def test_nothing_can_be_missing_where_nothing_was_issued() -> None:
    found = judge(SERVER, None, 0, [{}, {}], [pool(opened=False, issued_before=None)])
    assert found.verdict is Verdict.FIRST


def test_what_is_behind_what_is_known_is_a_loss() -> None:
    found = judge(SERVER, SERVER, 7, STATES, [pool()], ["2 batches are missing"])
    assert found == Finding(Verdict.LOSS, ("2 batches are missing",))


@pytest.mark.parametrize(
    ("now", "before", "states", "pools", "reason"),
    [
        (SERVER, None, STATES, [pool()], "no server is on record"),
        (replace(SERVER, durable=False), SERVER, STATES, [pool()], "does not (or did not) sync"),
        (SERVER, replace(SERVER, durable=False), STATES, [pool()], "does not (or did not) sync"),
        (SERVER, replace(SERVER, address="10.0.0.2:6379/0"), STATES, [pool()], "another server"),
        (SERVER, replace(SERVER, directory="/other"), STATES, [pool()], "another server"),
        (replace(SERVER, promoted=True), SERVER, STATES, [pool()], "promoted"),
        (
            SERVER,
            SERVER,
            [STATES[0], {"blessed_epoch": "6"}],
            [pool()],
            "1 of 2 partitions are missing or from",
        ),
        (SERVER, SERVER, [STATES[0], {}], [pool()], "1 of 2 partitions are missing or from"),
        (SERVER, SERVER, STATES, [pool(issued_before=None)], "pool 1 is missing"),
        (SERVER, SERVER, STATES, [pool(loaded_before=None)], "pool 1 is missing"),
        (SERVER, SERVER, STATES, [pool(accounted=41)], "has issued 40, but seq 41 is accounted for"),
        (SERVER, SERVER, STATES, [pool(in_list=61)], "its list contradicts its counters"),
        (SERVER, SERVER, STATES, [pool(in_list=-1)], "its list contradicts its counters"),
    ],
)
def test_any_single_reason_is_a_loss(
    now: ServerIdentity,
    before: ServerIdentity | None,
    states: list[PartitionState],
    pools: list[PoolState],
    reason: str,
) -> None:
    found = judge(now, before, 7, states, pools)
    assert found.verdict is Verdict.LOSS
    (only,) = found.reasons
    assert reason in only


def test_promoted_a_replica_is_a_restart_when_every_registration_is_settled() -> None:
    promoted = replace(SERVER, promoted=True)
    assert judge(promoted, SERVER, 7, STATES, [pool()], [], all_settled=True).verdict is Verdict.RESTART
