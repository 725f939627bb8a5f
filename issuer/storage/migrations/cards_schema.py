"""Cards in the schema: numbers that lead to an account."""

from typing import Final

CARDS: Final = """
CREATE TABLE cards (
    -- In upper case, without hyphens; its last character checks the others.
    number          text COLLATE "C" PRIMARY KEY,
    -- The order of issue. It names a card where its number, which is worth money, should not be.
    id              bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    program_id      uuid NOT NULL,
    -- Null: a blank card, which is assigned to a member later. An account has any number of cards.
    account_id      bigint,
    -- The request that issued the card, with all others of that request: what is printed together.
    run_id          uuid NOT NULL,
    issued_at       instant NOT NULL DEFAULT now(),
    -- Final. The number is never issued again.
    revoked_at      instant
);
COMMENT ON TABLE cards IS
    'Numbers on cards, each of one program. Several may lead to one account; a member''s erasure deletes its cards.';
CREATE INDEX cards_by_program ON cards (program_id, id);
CREATE INDEX cards_by_run ON cards (run_id, id);
CREATE INDEX cards_by_account ON cards (account_id) WHERE account_id IS NOT NULL
"""
