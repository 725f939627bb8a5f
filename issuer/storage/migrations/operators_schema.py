"""Operators of the console in the schema, and the links that sign one in."""

from typing import Final

OPERATORS: Final = """
CREATE TABLE operators (
    id              uuid PRIMARY KEY,
    name            text NOT NULL CHECK (name <> ''),
    role            text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    -- Null: the operator sees every client.
    client_id       uuid,
    -- Argon2id, as the PHC string format spells it.
    password_hash   text NOT NULL CHECK (password_hash <> ''),
    -- Until when the password is valid that was shown when it was created or reset. Null: the operator has chosen one.
    initial_until   instant,
    -- Passwords that were tried since the last right one.
    tries           integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    locked_until    instant,
    created_at      instant NOT NULL DEFAULT now(),
    disabled_at     instant
);
COMMENT ON TABLE operators IS
    'People who sign in to the console. A row is disabled, never deleted: the audit log refers to it.';
CREATE UNIQUE INDEX operators_by_name ON operators (lower(name)) WHERE disabled_at IS NULL;

CREATE TABLE console_links (
    -- SHA-256 of the token in the link.
    hash            bytea PRIMARY KEY CHECK (length(hash) = 32),
    -- Who created it, as the audit log names actors.
    made_by         text NOT NULL,
    expires_at      instant NOT NULL
);
COMMENT ON TABLE console_links IS
    'One-time links to the console that were not used. The next one that is created deletes what has expired.'
"""
