"""Sessions of people in the schema, and the tokens with which they sign in."""

from typing import Final

SESSIONS: Final = """
CREATE TABLE sessions (
    -- SHA-256 of the token in the cookie: who reads the table can use no session.
    hash            bytea PRIMARY KEY CHECK (length(hash) = 32),
    kind            text NOT NULL CHECK (kind IN ('member', 'till', 'console')),
    -- The id of the member, or of the API key with which a till or a console was signed in.
    owner           text COLLATE "C" NOT NULL,
    -- The program whose pages the session opens. Null: it is not bound to one.
    program_id      uuid,
    -- What the pages of its kind keep in it.
    detail          jsonb NOT NULL DEFAULT '{}',
    began_at        instant NOT NULL DEFAULT now(),
    -- Moved by each use, up to ends_at.
    expires_at      instant NOT NULL,
    ends_at         instant NOT NULL CHECK (ends_at >= expires_at)
);
COMMENT ON TABLE sessions IS 'Signed-in browsers. The worker removes a row when it has expired.';
CREATE INDEX sessions_by_owner ON sessions (kind, owner, began_at);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

CREATE TABLE login_tokens (
    -- SHA-256 of the token in the link of the message.
    hash            bytea PRIMARY KEY CHECK (length(hash) = 32),
    -- login: signs in, or opens an account. email: confirms the new address of member_id.
    purpose         text NOT NULL CHECK (purpose IN ('login', 'email')),
    program_id      uuid NOT NULL,
    -- SHA-256 of the token in the cookie of the browser that asked: the code is valid there alone. Null: staff asked.
    browser         bytea CHECK (length(browser) = 32),
    -- SHA-256 of hash and code.
    code_hash       bytea NOT NULL CHECK (length(code_hash) = 32),
    email           text NOT NULL,
    email_folded    text COLLATE "C" NOT NULL,
    member_id       uuid,
    tries           smallint NOT NULL DEFAULT 0,
    created_at      instant NOT NULL DEFAULT now(),
    expires_at      instant NOT NULL,
    CHECK ((purpose = 'email') = (member_id IS NOT NULL))
);
COMMENT ON TABLE login_tokens IS
    'Codes and links that were sent and not used. One that is used, replaced or expired is deleted.';
CREATE INDEX login_tokens_by_browser ON login_tokens (browser);
CREATE INDEX login_tokens_by_email ON login_tokens (email_folded, program_id);
CREATE INDEX login_tokens_by_expiry ON login_tokens (expires_at)
"""
