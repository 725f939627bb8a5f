"""Jobs that generate codes."""

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = """
-- Codes that were asked for, and how many of them there are: `made` grows in the transaction that inserts codes.
CREATE TABLE generation_jobs (
    id              uuid PRIMARY KEY,
    batch_id        uuid NOT NULL REFERENCES batches,
    client_id       uuid NOT NULL,
    format          jsonb NOT NULL,
    count           bigint NOT NULL CHECK (count > 0),
    made            bigint NOT NULL DEFAULT 0 CHECK (made BETWEEN 0 AND count),
    state           text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed')),
    -- Why it failed.
    problem         text,
    actor           text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- When somebody last worked at it: whoever has waited longest is next.
    touched_at      timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    -- When whoever asked was told how to find it: until then the same command once more means this one.
    told_at         timestamptz
);
CREATE INDEX generation_jobs_open ON generation_jobs (touched_at) WHERE finished_at IS NULL;
CREATE INDEX generation_jobs_by_batch ON generation_jobs (batch_id)
"""


def upgrade() -> None:
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
