"""Staff in the schema: who works at the tills of a program."""

from typing import Final

STAFF: Final = """
CREATE TABLE staff (
    id              uuid PRIMARY KEY,
    program_id      uuid NOT NULL REFERENCES loyalty_programs,
    name            text NOT NULL CHECK (name <> ''),
    -- Salt and scrypt hash of the PIN.
    pin_hash        bytea NOT NULL CHECK (length(pin_hash) = 48),
    -- The largest entry that this member of staff may make. Null: only the terms of the program limit it.
    max_points      points CHECK (max_points > 0),
    -- PINs that were tried since the last right one.
    tries           integer NOT NULL DEFAULT 0 CHECK (tries >= 0),
    locked_until    instant,
    created_at      instant NOT NULL DEFAULT now(),
    disabled_at     instant
);
COMMENT ON TABLE staff IS 'Staff at tills. A row is disabled, never deleted: entries of the ledger refer to it.';
CREATE UNIQUE INDEX staff_by_name ON staff (program_id, name) WHERE disabled_at IS NULL;
CREATE INDEX entries_of_staff ON entries (staff_id, occurred_at) WHERE staff_id IS NOT NULL
"""
