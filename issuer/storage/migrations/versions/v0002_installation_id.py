"""An id of the installation, by which its Redis data are told from another's."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE installation ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()")
