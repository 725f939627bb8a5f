"""What operators find and decide: uses by their orders, runs of the reconciliation, recoveries that are accepted."""

from typing import Final

from alembic import op

from issuer.storage.migrations.large_indexes import LARGE_INDEXES

revision = "0005"
down_revision = "0004"

# A hash index costs half of what a B-tree costs the worker, and only for uses that have an order. Where there are uses
# already, `issuer.storage.migrate` has built it.
_ORDERS: Final = f"CREATE INDEX IF NOT EXISTS {LARGE_INDEXES['consumptions_by_order'].definition}"

_RUNS: Final = """
CREATE TABLE reconciliations (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Who asked for it.
    actor           text NOT NULL,
    requested_at    instant NOT NULL DEFAULT clock_timestamp(),
    -- Of the latest attempt: a worker that is stopped leaves the run to the next one.
    started_at      instant,
    finished_at     instant,
    -- Whether everything balanced, and what did not.
    holds           boolean,
    result          jsonb,
    CHECK (num_nonnulls(finished_at, holds, result) IN (0, 3))
);
COMMENT ON TABLE reconciliations IS 'Runs of the reconciliation that operators have asked for, with their results.';
-- At most one is open.
CREATE UNIQUE INDEX reconciliations_open ON reconciliations ((true)) WHERE finished_at IS NULL
"""

# An operator has accepted that what the recovery quarantined stays out of stock.
_ACCEPTED: Final = "ALTER TABLE incarnations ADD COLUMN accepted_at instant, ADD COLUMN accepted_by text"


def upgrade() -> None:
    for statement in (_ORDERS, _ACCEPTED, *_RUNS.split(";\n")):
        op.execute(statement)
