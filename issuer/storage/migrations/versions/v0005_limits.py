"""API keys have limits of their own, and may be public."""

from alembic import op

revision = "0005"
down_revision = "0004"

CHANGES = """
-- Rate limits as they are written, such as 100/s or off; null: the setting's.
ALTER TABLE api_keys ADD COLUMN rate_limit text, ADD COLUMN failed_lookup_limit text;
ALTER TABLE api_keys DROP CONSTRAINT api_keys_scopes_check;
ALTER TABLE api_keys ADD CONSTRAINT api_keys_scopes_check CHECK (scopes <@ ARRAY['redeem', 'admin', 'public'])
"""


def upgrade() -> None:
    for statement in CHANGES.split(";\n"):
        op.execute(statement)
