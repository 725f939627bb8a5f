"""Operators of the console, and one-time links."""

from alembic import op

from issuer.storage.migrations.operators_schema import OPERATORS

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for statement in OPERATORS.split(";\n"):
        op.execute(statement)
