"""Customers whose id is a text of their caller's own: the one table that holds such a text."""

from typing import Final

CUSTOMERS: Final = """
CREATE TABLE customers (
    -- UUIDv5 of the installation and the text: what redemptions, consumptions and windows refer to.
    id              uuid NOT NULL,
    -- Whose codes the customer was issued. Each client has a row of its own, so a client reads no text that came with
    -- another client's redemptions.
    client_id       uuid NOT NULL,
    text            text COLLATE "C" NOT NULL CHECK (length(text) BETWEEN 1 AND 128),
    PRIMARY KEY (id, client_id)
);
COMMENT ON TABLE customers IS
    'The texts that callers gave as ids of customers, recorded with the first redemption and removed by an erasure.'
"""
