"""Reports of loyalty: the ledger of points, and the members with their balances."""

from __future__ import annotations

from typing import Final

from issuer.reports.report import Filter, Report

_FILTERS: Final = (Filter.PROGRAM, Filter.CLIENT, Filter.FROM, Filter.TO)

POINTS: Final = Report(
    name="points",
    summary="Entries of the ledger of points, in order of account and seq. The times select by entry. Figures are "
    "minor units where the unit of the program is a currency",
    filters=_FILTERS,
    columns=(
        "entry_id", "program", "unit", "member_id", "member_ref", "op", "points", "available", "held", "pending",
        "debt", "lifetime", "order_source", "order_id", "reason", "reverses", "hold_id", "move_id", "terms_number",
        "occurred_at", "api_key_id", "client_id", "client_name",
    ),
    query="""
SELECT concat_ws('-', e.account_id, e.seq) AS entry_id, p.name AS program, p.unit, a.member_id, m.ref AS member_ref,
  e.op, e.points, e.available, e.held, e.pending, e.debt, e.lifetime, e.order_source, e.order_id, e.reason,
  e.account_id || '-' || e.reverses_seq AS reverses, e.hold_id, e.move_id, e.terms_number, e.occurred_at, e.api_key_id,
  p.client_id, k.name AS client_name
FROM entries e JOIN accounts a ON a.id = e.account_id JOIN loyalty_programs p ON p.id = a.program_id
LEFT JOIN members m ON m.id = a.member_id LEFT JOIN clients k ON k.id = p.client_id
WHERE ($1::uuid IS NULL OR p.id = $1)
  AND ($2::uuid IS NULL OR p.client_id = $2)
  AND ($3::timestamptz IS NULL OR e.occurred_at >= $3)
  AND ($4::timestamptz IS NULL OR e.occurred_at < $4)
ORDER BY e.account_id, e.seq""",
)  # fmt: skip

MEMBERS: Final = Report(
    name="members",
    summary="Members of programs with the balances that the last entry left, in order of account. The times select by "
    "when they joined. Figures are minor units where the unit of the program is a currency",
    filters=_FILTERS,
    columns=(
        "member_id", "ref", "name", "email", "phone", "locale", "marketing", "marketing_at", "program", "unit",
        "available", "held", "pending", "debt", "lifetime", "joined_at", "merged_into", "erased_at", "client_id",
        "client_name",
    ),
    query="""
SELECT m.id AS member_id, m.ref, m.name, m.email, m.phone, m.locale, m.marketing, m.marketing_at, p.name AS program,
  p.unit, a.available, a.held, a.pending, a.debt, a.lifetime, a.created_at AS joined_at, m.merged_into, m.erased_at,
  p.client_id, k.name AS client_name
FROM accounts a JOIN members m ON m.id = a.member_id JOIN loyalty_programs p ON p.id = a.program_id
LEFT JOIN clients k ON k.id = p.client_id
WHERE ($1::uuid IS NULL OR p.id = $1)
  AND ($2::uuid IS NULL OR p.client_id = $2)
  AND ($3::timestamptz IS NULL OR a.created_at >= $3)
  AND ($4::timestamptz IS NULL OR a.created_at < $4)
ORDER BY a.id""",
)  # fmt: skip
