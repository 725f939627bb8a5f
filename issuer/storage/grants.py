"""What each process may do with each table: the one place where privileges are listed. `issuer migrate` applies it.

The owner of the tables has every right; `issuer migrate` and the commands work with it. The API and the worker work
with a role each that has these rights and no others: neither can change the schema, and neither can change or delete a
row of the ledger or of the audit log. A table without an entry here is unreadable for both.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Process(StrEnum):
    """A process with a role of its own."""

    API = "api"
    WORKER = "worker"


class Rights(NamedTuple):
    """Privileges as GRANT spells them; empty: none."""

    api: str
    worker: str

    def of(self, process: Process) -> str:
        return self.api if process is Process.API else self.worker


# Both processes recover Redis, so both fence and bless, quarantine, drain the stream and replay the journal. A lock of
# rows (FOR SHARE, FOR UPDATE) needs UPDATE of one column of the table.
_FENCE: Final = "SELECT, INSERT, UPDATE (epoch, run_id, recovering, lost_epoch, incident, database, timeline)"
# The worker removes letters that were resolved long ago, an erasure over HTTP those that name the customer. The erasure
# also takes the id out of the detail of anomalies.
_LETTERS: Final = "SELECT, INSERT, UPDATE (resolved_at), DELETE"

# Both processes run the executor of points: the API for requests, the worker for what is due and for orders of shops.
_POINTS: Final = "SELECT, INSERT, UPDATE, DELETE"

# Neither the role of an operator nor the client can be changed, not by the API either.
_OPERATORS: Final = "SELECT, INSERT, UPDATE (password_hash, initial_until, tries, locked_until, disabled_at)"

TABLES: Final = {
    #                          API                                     worker
    "alembic_version":  Rights("SELECT",                               "SELECT"),
    "installation":     Rights(_FENCE,                                 _FENCE),
    "incarnations":     Rights("SELECT, INSERT, UPDATE",               "SELECT, INSERT, UPDATE"),
    "batches":          Rights("SELECT, INSERT, UPDATE",               "SELECT, UPDATE"),
    "pools":            Rights("SELECT, INSERT, UPDATE",               "SELECT, INSERT, UPDATE"),
    "codes":            Rights("SELECT, INSERT",                       "SELECT, INSERT"),
    "clients":          Rights("SELECT, INSERT, UPDATE (name)",        "SELECT"),
    "client_quotas":    Rights("SELECT, INSERT, UPDATE",               ""),
    # A lock of a row needs UPDATE.
    "client_locks":     Rights("SELECT, INSERT, UPDATE",               "SELECT, INSERT, UPDATE"),
    "imported_batches": Rights("",                                     ""),
    "generation_jobs":  Rights("SELECT, INSERT, UPDATE",               "SELECT, UPDATE"),
    "coupons":          Rights("SELECT, INSERT, UPDATE",               "SELECT"),
    "coupon_terms":     Rights("SELECT, INSERT",                       "SELECT"),
    "campaigns":        Rights("SELECT, INSERT, UPDATE",               "SELECT, UPDATE"),
    "redemptions":      Rights("SELECT, INSERT",                       "SELECT, INSERT"),
    "consumptions":     Rights("SELECT, INSERT",                       "SELECT, INSERT"),
    "reversals":        Rights("SELECT, INSERT, UPDATE (returned_at)", "SELECT, UPDATE (returned_at)"),
    "ledger":           Rights("SELECT",                               "SELECT"),
    "dead_letters":     Rights(_LETTERS,                               _LETTERS),
    "quarantined":      Rights("SELECT, INSERT, UPDATE, DELETE",       "SELECT, INSERT, UPDATE, DELETE"),
    "anomalies":        Rights("SELECT, INSERT, UPDATE (detail)",      "SELECT, INSERT"),
    "registrations":    Rights("SELECT, INSERT, UPDATE, DELETE",       "SELECT, INSERT, UPDATE, DELETE"),
    "void_seqs":        Rights("SELECT, INSERT",                       "SELECT, INSERT"),
    "epoch_bases":      Rights("SELECT, INSERT, UPDATE (refused)",     "SELECT, INSERT, UPDATE (refused)"),
    "late_rows":        Rights("SELECT, INSERT",                       "SELECT, INSERT, DELETE"),
    # Tokens that Postgres does not know are accepted by an operator, as the owner.
    "lineage":          Rights("SELECT, INSERT",                       "SELECT, INSERT, DELETE"),
    "workers":          Rights("SELECT",                               "SELECT, INSERT, UPDATE, DELETE"),
    "task_rows":        Rights("SELECT",                               "SELECT, INSERT, UPDATE, DELETE"),
    "series_minutes":   Rights("SELECT, INSERT, UPDATE",               "SELECT, DELETE"),
    "series_hours":     Rights("SELECT, INSERT, UPDATE",               "SELECT, DELETE"),
    "pulses":           Rights("SELECT, INSERT, UPDATE, DELETE",       "SELECT, DELETE"),
    "pool_rates":       Rights("SELECT",                               "SELECT, INSERT, UPDATE, DELETE"),
    "api_keys":         Rights("SELECT, INSERT, UPDATE (revoked_at)",  ""),
    "sessions":         Rights("SELECT, INSERT, UPDATE, DELETE",       "SELECT, DELETE"),
    "login_tokens":     Rights("SELECT, INSERT, UPDATE, DELETE",       "SELECT, DELETE"),
    "operators":        Rights(_OPERATORS,                             ""),
    # Only a command creates a link.
    "console_links":    Rights("SELECT, DELETE",                       ""),
    "stored_secrets":   Rights("SELECT, INSERT, UPDATE, DELETE",       ""),
    "kept_answers":     Rights("SELECT, INSERT, UPDATE, DELETE",       "SELECT, DELETE"),
    # The worker erases a customer whom a shop asks to erase, if the API has not.
    "members":          Rights("SELECT, INSERT, UPDATE",               "SELECT, UPDATE"),
    "loyalty_programs": Rights("SELECT, INSERT, UPDATE",               "SELECT"),
    "program_terms":    Rights("SELECT, INSERT",                       "SELECT"),
    "accounts":         Rights("SELECT, INSERT, UPDATE",               "SELECT, INSERT, UPDATE"),
    "points_holds":     Rights("SELECT, INSERT, UPDATE",               "SELECT, INSERT, UPDATE"),
    "pending_points":   Rights(_POINTS,                                _POINTS),
    "entries":          Rights("SELECT, INSERT",                       "SELECT, INSERT"),
    "orders":           Rights("SELECT, INSERT, UPDATE",               "SELECT, INSERT, UPDATE"),
    "moves":            Rights("SELECT, INSERT, UPDATE",               "SELECT, INSERT, UPDATE"),
    "hook_endpoints":   Rights("SELECT, INSERT, UPDATE",               "SELECT"),
    "hook_inbox":       Rights("SELECT, INSERT, UPDATE",               "SELECT, UPDATE, DELETE"),
    "hook_refunds":     Rights("SELECT, INSERT",                       "SELECT, INSERT"),
    "hook_taxed_orders": Rights("SELECT, INSERT",                      "SELECT, INSERT"),
    "rewards":          Rights("SELECT, INSERT, UPDATE",               "SELECT"),
    "purchases":        Rights("SELECT, INSERT, UPDATE",               "SELECT"),
    "staff":            Rights("SELECT, UPDATE (tries, locked_until)", ""),
    # An erasure of a member by either process deletes its cards.
    "cards":            Rights(_POINTS,                                "SELECT, DELETE"),
    "reconciliations":  Rights("SELECT, INSERT",                       "SELECT, UPDATE, DELETE"),
    "audit_log":        Rights("SELECT",                               ""),
    "audit_ends":       Rights("SELECT",                               "SELECT"),
    "audit_intake":     Rights("INSERT",                               "INSERT"),
}  # fmt: skip
"""Tables and views of the schema."""

FUNCTIONS: Final = {
    #                                                   API        worker
    "end_frozen_recovery(bigint, double precision)": Rights("EXECUTE", "EXECUTE"),
    "end_abandoned_transactions(double precision)":  Rights("EXECUTE", "EXECUTE"),
    "erase_customer(uuid)":                          Rights("EXECUTE", ""),
    # Each erases members.
    "forget_customer_texts(uuid[], uuid)":           Rights("EXECUTE", "EXECUTE"),
    "renew_batch_token()":                           Rights("",        ""),
    "reissue_void(bigint, integer)":                 Rights("",        "EXECUTE"),
    "requeue_quarantined(bigint, bigint[])":         Rights("EXECUTE", ""),
    "audit_append()":                                Rights("",        ""),
    "audit_refuse()":                                Rights("",        ""),
    "audit_cut(timestamp with time zone, integer)":  Rights("",        "EXECUTE"),
}  # fmt: skip
"""Functions of the schema, most of which run with the rights of the owner. PUBLIC may execute none of them."""

DATABASE: Final = ("CONNECT", "TEMPORARY")
"""Uploads and recoveries sort their rows in temporary tables."""


def split_privileges(privileges: str) -> list[tuple[str, str | None]]:
    """Return (privilege, column or None) for each of `SELECT, UPDATE (a, b)`."""
    found: list[tuple[str, str | None]] = []
    for part in privileges.replace("), ", ")|").split("|"):
        head, _, columns = part.partition(" (")
        words = [word for word in head.split(", ") if word]
        found += [(word, None) for word in (words[:-1] if columns else words)]
        found += [(words[-1], column) for column in columns.rstrip(")").split(", ") if column]
    return found
