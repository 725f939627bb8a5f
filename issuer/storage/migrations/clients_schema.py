"""Clients in the schema: the registry, and the locks of those that have codes."""

from typing import Final

CLIENTS: Final = """
CREATE TABLE clients (
    id              uuid PRIMARY KEY,
    -- The operator's own id of the client, from which `id` is derived (issuer.ids). Null: the client has a UUID only.
    text            text COLLATE "C" UNIQUE,
    -- For people: it may change, and need not be unique.
    name            text NOT NULL CHECK (name <> ''),
    created_at      instant NOT NULL DEFAULT now()
);
COMMENT ON TABLE clients IS
    'Clients that were registered. A client that is named by a UUID may have codes without a row here; one that is named
by a text may not.';
CREATE INDEX clients_by_time ON clients (created_at, id);

CREATE TABLE client_locks (
    client_id       uuid PRIMARY KEY
);
COMMENT ON TABLE client_locks IS 'Clients with codes. A transaction that adds codes of a client locks its row.'
"""
