"""Rewards in the schema. Their purchases are points moves, in the chapter of loyalty."""

from typing import Final

REWARDS: Final = """
CREATE TABLE rewards (
    id              uuid PRIMARY KEY,
    program_id      uuid NOT NULL REFERENCES loyalty_programs,
    name            text NOT NULL CHECK (name <> ''),
    -- Points of the program, or minor units of its currency.
    cost            bigint NOT NULL CHECK (cost BETWEEN 1 AND 1000000000000),
    -- The codes that it issues, of the program's client. What a member may take in which time is the batch's rules.
    batch_id        uuid NOT NULL REFERENCES batches,
    starts_at       instant,
    ends_at         instant,
    created_at      instant NOT NULL DEFAULT now(),
    CHECK (starts_at < ends_at)
);
COMMENT ON TABLE rewards IS 'What members take for points: each purchase issues one code of a batch.';
CREATE INDEX rewards_of_program ON rewards (program_id, created_at, id)
"""

PURCHASES: Final = """
CREATE TABLE purchases (
    -- The points move, which has reward, batch, points, state and code.
    move_id         uuid PRIMARY KEY,
    -- Whose pool of the batch issues the code.
    client_id       uuid NOT NULL,
    -- Identifies the request for the code in Redis and in the ledger.
    key_hash        bytea NOT NULL CHECK (length(key_hash) = 16),
    api_key_id      integer NOT NULL,
    -- SHA-256 of the request's own Idempotency-Key with its scope, and of the request. Null: none, or it was undone,
    -- and a repeat tries again.
    request_key     bytea UNIQUE CHECK (length(request_key) = 32),
    request_sha256  bytea CHECK (length(request_sha256) = 32),
    -- Until it is settled: the customer of the code, and how long the latest attempt may ask for it.
    customer_id     uuid,
    attempt         integer NOT NULL DEFAULT 1,
    attempt_until   instant,
    -- Why it was undone.
    refusal         text,
    CHECK ((customer_id IS NULL) = (attempt_until IS NULL)),
    CHECK ((request_key IS NULL) = (request_sha256 IS NULL))
);
COMMENT ON TABLE purchases IS 'What a points move for the code of a reward needs until it is settled, and its keys.';
CREATE INDEX purchases_unsettled ON purchases (attempt_until) WHERE attempt_until IS NOT NULL
"""
