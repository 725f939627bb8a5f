"""Members in the schema: the one table of loyalty with personal data."""

from typing import Final

MEMBERS: Final = """
CREATE TABLE members (
    id              uuid PRIMARY KEY,
    client_id       uuid NOT NULL,
    -- The client's own id of the member.
    ref             text COLLATE "C",
    -- As given, and without the case in which it was written.
    email           text,
    email_folded    text COLLATE "C",
    phone           text,
    name            text,
    locale          text,
    marketing       boolean NOT NULL DEFAULT false,
    marketing_at    instant,
    merged_into     uuid,
    erased_at       instant,
    created_at      instant NOT NULL DEFAULT now(),
    UNIQUE (client_id, ref),
    UNIQUE (client_id, email_folded)
);
COMMENT ON TABLE members IS 'Members of loyalty programs. An erasure removes every column that says who it is.'
"""
