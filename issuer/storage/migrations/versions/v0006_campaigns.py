"""Campaigns."""

from alembic import op

revision = "0006"
down_revision = "0005"

# A campaign is a batch with one pool, whose codes were made for it.
CAMPAIGNS = """
CREATE TABLE campaigns (
    batch_id        uuid PRIMARY KEY REFERENCES batches,
    client_id       uuid NOT NULL,
    code_format     jsonb NOT NULL,
    -- Whether anybody may ask for a code, without a key.
    public          boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- When it could issue for the first time; nobody is told of it before.
    ready_at        timestamptz,
    -- Raised by every change of this row, so that the sum of all tells whether there was one.
    revision        bigint NOT NULL DEFAULT 1,
    FOREIGN KEY (batch_id, client_id) REFERENCES pools (batch_id, client_id)
)"""


def upgrade() -> None:
    op.execute(CAMPAIGNS)
    op.execute("CREATE INDEX campaigns_by_time ON campaigns (created_at, batch_id)")
