"""The audit log in the schema: its tables, and the functions that chain its entries and cut them off at the oldest end.

docs/decisions/0024-audit-chain.md gives the reasons. Each constant that holds a function is one statement.
"""

from collections.abc import Iterator
from typing import Final

_TABLES: Final = """
CREATE TABLE audit_log (
    -- 1, 2, 3, … without gaps, in the order of the commits.
    id              bigint PRIMARY KEY,
    at              instant NOT NULL,
    actor           text NOT NULL,
    action          text NOT NULL,
    subject         text NOT NULL,
    detail          jsonb NOT NULL,
    -- SHA-256 over the hash of the entry before and the content of this one; docs/operations.md has the form.
    hash            bytea NOT NULL CHECK (length(hash) = 32)
);
COMMENT ON TABLE audit_log IS
    'Every administrative action over HTTP or the CLI, written in its transaction. Append-only and chained by hash.';
-- The oldest entries are found by time.
CREATE INDEX audit_log_by_time ON audit_log USING brin (at);

CREATE TABLE audit_ends (
    which           text PRIMARY KEY CHECK (which IN ('removed', 'newest')),
    id              bigint NOT NULL,
    hash            bytea NOT NULL CHECK (length(hash) = 32)
);
COMMENT ON TABLE audit_ends IS
    'Both ends of the audit log: the newest entry, and the last entry that retention removed. Id 0: none yet.';
INSERT INTO audit_ends VALUES ('removed', 0, decode(repeat('00', 32), 'hex')),
    ('newest', 0, decode(repeat('00', 32), 'hex'));

CREATE TABLE audit_intake (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    actor           text NOT NULL,
    action          text NOT NULL,
    subject         text NOT NULL,
    detail          jsonb NOT NULL
);
COMMENT ON TABLE audit_intake IS
    'Entries of transactions that run. Their commit moves them to the audit log; nothing stays here.'
"""

# Runs in the commit of the act, when the transaction has all its other locks: it waits for other commits only, and no
# client can stop while it holds the newest end. The search_path of a caller must not lead it to other tables.
_APPEND: Final = """
CREATE FUNCTION audit_append() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = SCHEMA, pg_temp AS $$
DECLARE
    newest audit_ends;
    entry audit_log;
    content bytea;
BEGIN
    SELECT * INTO STRICT newest FROM audit_ends WHERE which = 'newest' FOR UPDATE;
    entry.id := newest.id + 1;
    entry.at := clock_timestamp();
    SELECT string_agg(convert_to(octet_length(convert_to(field, 'UTF8')) || ':' || field || ',', 'UTF8'), ''::bytea
                      ORDER BY place)
    INTO STRICT content
    FROM unnest(ARRAY[entry.id::text, (extract(epoch FROM entry.at) * 1000000)::bigint::text, NEW.actor, NEW.action,
                      NEW.subject, NEW.detail::text]) WITH ORDINALITY AS fields (field, place);
    entry.hash := sha256(newest.hash || content);
    INSERT INTO audit_log VALUES (entry.id, entry.at, NEW.actor, NEW.action, NEW.subject, NEW.detail, entry.hash);
    UPDATE audit_ends SET id = entry.id, hash = entry.hash WHERE which = 'newest';
    DELETE FROM audit_intake WHERE id = NEW.id;
    RETURN NULL;
END
$$"""
_APPEND_TRIGGER: Final = """
CREATE CONSTRAINT TRIGGER audit_append AFTER INSERT ON audit_intake DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION audit_append()"""

_REFUSE: Final = """
CREATE FUNCTION audit_refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = SCHEMA, pg_temp AS $$
BEGIN
    IF TG_LEVEL = 'ROW' AND OLD.id <= (SELECT id FROM audit_ends WHERE which = 'removed') THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only: % is refused', TG_OP USING ERRCODE = 'restrict_violation';
END
$$"""
_REFUSE_TRIGGERS: Final = (
    "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_refuse()",
    "CREATE TRIGGER audit_no_change BEFORE UPDATE OR TRUNCATE ON audit_log"
    " FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()",
)

# Removes at most `at_most` entries and returns their number. The cut moves first: entries before it may be deleted. The
# first entry that is young enough ends it, whatever the clock said later. The floor is here and not in the settings, so
# that no caller can remove what it has just done.
_CUT: Final = """
CREATE FUNCTION audit_cut(older_than timestamptz, at_most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = SCHEMA, pg_temp AS $$
DECLARE
    removed audit_ends;
    cut audit_log;
BEGIN
    IF older_than IS NULL OR older_than > now() - interval '30 days' THEN
        RAISE EXCEPTION 'audit entries of the last 30 days are kept' USING ERRCODE = 'restrict_violation';
    END IF;
    SELECT * INTO STRICT removed FROM audit_ends WHERE which = 'removed' FOR UPDATE;
    SELECT * INTO cut FROM audit_log
    WHERE id <= removed.id + at_most AND id < coalesce(
        (SELECT min(id) FROM audit_log WHERE id <= removed.id + at_most AND at >= older_than), removed.id + at_most + 1)
    ORDER BY id DESC LIMIT 1;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    UPDATE audit_ends SET id = cut.id, hash = cut.hash WHERE which = 'removed';
    DELETE FROM audit_log WHERE id <= cut.id;
    INSERT INTO audit_intake (actor, action, subject, detail) VALUES ('retention', 'audit.cut', 'audit',
        jsonb_build_object('entries', cut.id - removed.id, 'last', cut.id, 'hash', encode(cut.hash, 'hex')));
    RETURN cut.id - removed.id;
END
$$"""

_CUT_REVOKE: Final = "REVOKE ALL ON FUNCTION audit_cut FROM PUBLIC"


def statements(schema: str) -> Iterator[str]:
    """Yield what creates the audit log. `schema`: that of the tables, quoted; the functions find them nowhere else."""
    yield from _TABLES.split(";\n")
    for statement in (_APPEND, _APPEND_TRIGGER, _REFUSE, *_REFUSE_TRIGGERS, _CUT, _CUT_REVOKE):
        yield statement.replace("SCHEMA", schema)
