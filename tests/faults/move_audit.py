"""What must hold after any number of kills: no point and no code is lost, kept twice or given for nothing."""

from __future__ import annotations

from typing import Final

from tests.faults.move_world import MEMBERS, POINTS, MoveWorld
from tests.support.environment import clean_environment
from tests.support.forked_processes import complete_command
from tests.support.servers import wait_until

_SUMS: Final = """
SELECT (SELECT sum(available + held - debt) FROM accounts) AS balances,
  (SELECT coalesce(sum(points), 0) FROM moves WHERE kind = 'purchase' AND state = 'done') AS bought"""

# Both ways: a code without its purchase, and a purchase without its code.
_CODES: Final = """
SELECT m.id, m.state, m.code, r.code AS issued FROM redemptions r
FULL JOIN (purchases p JOIN moves m ON m.id = p.move_id) ON p.key_hash = r.key_hash
WHERE m.state IS DISTINCT FROM 'done' AND r.code IS NOT NULL
  OR m.state = 'done' AND r.code IS DISTINCT FROM m.code AND NOT EXISTS (
    SELECT FROM codes c JOIN quarantined q USING (pool_id, seq) WHERE c.code = m.code AND c.client_id = p.client_id)"""

_UNDO: Final = """
SELECT m.id FROM moves m WHERE m.kind = 'purchase' AND (m.state = 'undone') <>
  EXISTS (SELECT FROM entries e WHERE e.move_id = m.id AND e.op = 'undo' AND e.points = m.points)"""

_DEBITS: Final = """
SELECT m.id FROM moves m WHERE
  (SELECT count(*) FROM entries e WHERE e.move_id = m.id AND e.op IN ('spend', 'transfer_out')) <> 1"""


def audit_moves(world: MoveWorld) -> list[str]:
    """Return every promise that is broken, once no request is on its way."""
    world.await_settled()
    wait_until(lambda: world.backlog() == 0, "every redemption is in the ledger")
    found = list(world.customers.contradictions)
    if rows := world.sql("SELECT id FROM moves WHERE state = 'debited'"):
        found.append(f"not settled: {rows}")
    (sums,) = world.sql(_SUMS)
    if sums["balances"] + sums["bought"] != MEMBERS * POINTS:
        found.append(f"the sum is {sums['balances']} + {sums['bought']}, not {MEMBERS * POINTS}")
    for query, what in (
        (_CODES, "codes and purchases differ"), (_UNDO, "undone without its entry"), (_DEBITS, "not one debit"),
    ):  # fmt: skip
        if rows := world.sql(query):
            found.append(f"{what}: {rows[:5]}")
    if rows := world.sql("SELECT key_hash FROM redemptions GROUP BY key_hash HAVING count(*) > 1"):
        found.append(f"two codes for one purchase: {rows[:5]}")
    found += _answers(world)
    reconciled = complete_command(
        ["reconcile"], clean_environment(**world.command_environment()), world.directory
    )  # fmt: skip
    if reconciled.returncode:
        found.append(f"issuer reconcile: {reconciled.stdout}{reconciled.stderr}")
    return found


def _answers(world: MoveWorld) -> list[str]:
    """Compare what customers were answered with what is stored."""
    stored = {str(row["id"]): row for row in world.sql("SELECT id, kind, state, code FROM moves")}
    found: list[str] = []
    answered: set[str] = set()
    for key, (status, answer) in world.customers.answers.items():
        if status in (403, 409):
            continue
        move = stored.get(str(answer.get("id")))
        if status != 201 or move is None or move["state"] != "done" or move["code"] != answer.get("code"):
            found.append(f"{key} was answered {status} {answer}; stored is {move}")
        elif str(move["id"]) in answered:
            found.append(f"two keys were answered with move {move['id']}")
        answered.add(str(answer.get("id")))
    # A move that is done belongs to a request, which was repeated until it was answered.
    found += [f"no request was answered with move {one}" for one, row in stored.items()
              if row["state"] == "done" and one not in answered]  # fmt: skip
    return found
