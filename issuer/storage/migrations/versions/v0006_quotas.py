"""Quotas of clients."""

from typing import Final

from alembic import op

revision = "0006"
down_revision = "0005"

_QUOTAS: Final = """
CREATE TABLE client_quotas (
    -- A client that is named by a UUID need not be registered.
    client_id       uuid PRIMARY KEY,
    -- Null: without a limit.
    codes           bigint CHECK (codes >= 0),
    batches         bigint CHECK (batches >= 0)
)"""
_COMMENT: Final = """
COMMENT ON TABLE client_quotas IS 'How many codes and batches a client may have that have not ended.'"""


def upgrade() -> None:
    for statement in (_QUOTAS, _COMMENT):
        op.execute(statement)
