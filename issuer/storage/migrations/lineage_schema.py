"""Lineage in the schema: the tokens of commits, by which a Postgres that went back in time is detected."""

from typing import Final

LINEAGE: Final = """
CREATE TABLE lineage (
    token           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    -- Which commit wrote it; unknown: none here did, and a holder of the token has reported it.
    kind            text NOT NULL CHECK (kind IN ('record', 'connection', 'registration', 'settling', 'receipts',
        'fence', 'decision', 'blessing', 'revision', 'unknown', 'accepted')),
    created_at      instant NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE lineage IS
    'Random tokens of commits. Redis, processes and journals keep the last one they met: a Postgres that does not know
it has lost that commit.';
CREATE INDEX lineage_by_time ON lineage (created_at)
"""

# Whatever statement raises the revision of a batch, the batch gets a new token, and the one that Redis has stays known.
STATEMENTS: Final = (
    # With the path of the migration: functions of the owner, whose own path is another one, change batches, too.
    """
CREATE FUNCTION renew_batch_token() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO lineage (token, kind) VALUES (OLD.token, 'revision');
    NEW.token := gen_random_uuid();
    RETURN NEW;
END $$""",
    """
CREATE TRIGGER renew_batch_token BEFORE UPDATE ON batches FOR EACH ROW
WHEN (NEW.revision <> OLD.revision) EXECUTE FUNCTION renew_batch_token()""",
)
