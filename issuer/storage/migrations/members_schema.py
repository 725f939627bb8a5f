"""Members in the schema: the one table that holds the personal data of a loyalty program's members."""

from typing import Final

MEMBERS: Final = """
CREATE TABLE members (
    id              uuid PRIMARY KEY,
    client_id       uuid NOT NULL,
    -- The caller's own id of the member. It never has the form of a UUID, so a path may have either.
    ref             text COLLATE "C" CHECK (length(ref) BETWEEN 1 AND 128),
    -- As it was given, for mail; folded (NFC, without case) for look-ups.
    email           text CHECK (length(email) BETWEEN 3 AND 254),
    email_folded    text COLLATE "C",
    -- E.164.
    phone           text COLLATE "C" CHECK (phone ~ '^[+][1-9][0-9]{6,14}$'),
    name            text CHECK (name <> ''),
    -- A language tag (BCP 47), for pages and mail.
    locale          text,
    -- Whether the member agreed to marketing, and when this was last said; null: never.
    marketing       boolean NOT NULL DEFAULT false,
    marketing_at    instant,
    -- The member that this one was merged into, which is never merged itself: one step resolves it.
    merged_into     uuid REFERENCES members CHECK (merged_into <> id),
    erased_at       instant,
    created_at      instant NOT NULL DEFAULT now(),
    UNIQUE (client_id, ref),
    UNIQUE (client_id, email_folded),
    CHECK ((email IS NULL) = (email_folded IS NULL)),
    CHECK (NOT marketing OR marketing_at IS NOT NULL),
    CHECK (erased_at IS NULL OR (num_nonnulls(ref, email, phone, name, locale, marketing_at) = 0 AND NOT marketing))
);
COMMENT ON TABLE members IS
    'People with a points account. E-mail, phone and name are stored nowhere else. A row is erased, never deleted.';
CREATE INDEX members_by_phone ON members (client_id, phone) WHERE phone IS NOT NULL;
CREATE INDEX members_by_name ON members USING gin (to_tsvector('simple', name));
CREATE INDEX members_merged ON members (merged_into) WHERE merged_into IS NOT NULL
"""
