"""Coupons whose uses were lowered, until it is known how many were taken meanwhile."""

from alembic import op

revision = "0007"
down_revision = "0006"

COLUMN = """
-- Set with a lower `available`; until it is unset there may be fewer uses than were numbered.
ALTER TABLE coupons ADD COLUMN lowered boolean NOT NULL DEFAULT false
"""


def upgrade() -> None:
    op.execute(COLUMN)
