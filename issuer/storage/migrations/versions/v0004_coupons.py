"""Coupons: codes that may be used a number of times."""

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = """
-- codes: each is handed to one customer. coupon: one code that is used many times; exactly one pool, without codes.
ALTER TABLE batches ADD COLUMN kind text NOT NULL DEFAULT 'codes' CHECK (kind IN ('codes', 'coupon'));

-- Expiry, limits, pause and end of a coupon are those of its batch, whose id is made of client and folded code.
CREATE TABLE coupons (
    batch_id        uuid PRIMARY KEY REFERENCES batches,
    pool_id         bigint NOT NULL UNIQUE REFERENCES pools,
    client_id       uuid NOT NULL,
    code            text COLLATE "C" NOT NULL CHECK (code <> ''),
    -- The code without what a look-up ignores; fully: also O read as 0, and I and L as 1.
    folded          text COLLATE "C" NOT NULL CHECK (folded <> ''),
    fully_folded    text COLLATE "C" NOT NULL CHECK (fully_folded <> ''),
    -- Whether a look-up reads O as 0, and I and L as 1: its characters were chosen so that it can.
    unambiguous     boolean NOT NULL,
    -- Uses there are in all = available + reversed + released; never fewer than were numbered.
    available       bigint NOT NULL CHECK (available >= 0),
    reversed        bigint NOT NULL DEFAULT 0 CHECK (reversed >= 0),
    released        bigint NOT NULL DEFAULT 0 CHECK (released >= 0),
    product_id      text,
    promo_type      text,
    discount_fixed  numeric CHECK (discount_fixed > 0),
    currency        text CHECK (currency ~ '^[A-Z]{3}$'),
    -- Percent.
    discount_variable numeric CHECK (discount_variable > 0 AND discount_variable <= 100),
    terms           integer NOT NULL DEFAULT 1,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (client_id, fully_folded)
);
CREATE INDEX coupons_by_code ON coupons (fully_folded);

-- What a use of a coupon was worth, by the number that its uses carry. Text, since answers give it word for word.
CREATE TABLE coupon_terms (
    pool_id         bigint NOT NULL REFERENCES pools,
    number          integer NOT NULL,
    terms           json NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pool_id, number)
);

-- The ledger's other half: the uses of coupons. `seq` is the number of the use.
CREATE TABLE consumptions (
    pool_id         bigint NOT NULL,
    seq             bigint NOT NULL,
    terms           integer NOT NULL,
    customer_id     uuid,
    order_id        text,
    consumed_at     timestamptz NOT NULL,
    call_id         uuid NOT NULL,
    key_hash        bytea,
    api_key_id      integer NOT NULL,
    epoch           bigint NOT NULL,
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pool_id, seq)
);
CREATE INDEX consumptions_by_customer ON consumptions (customer_id, consumed_at);
CREATE INDEX consumptions_by_time ON consumptions USING brin (consumed_at);

-- Uses that were given back, each once. `returned_at`: when Redis no longer counted it against the customer's limits.
CREATE TABLE reversals (
    pool_id         bigint NOT NULL,
    seq             bigint NOT NULL,
    actor           text NOT NULL,
    reversed_at     timestamptz NOT NULL DEFAULT now(),
    returned_at     timestamptz,
    PRIMARY KEY (pool_id, seq),
    FOREIGN KEY (pool_id, seq) REFERENCES consumptions
);
CREATE INDEX reversals_not_returned ON reversals (pool_id) WHERE returned_at IS NULL;

-- Both halves, for whoever asks which seqs are accounted for, by whom and when.
CREATE VIEW ledger AS
SELECT pool_id, seq, code, 0 AS terms, ''::text AS order_id, customer_id, redeemed_at, call_id, key_hash
FROM redemptions
UNION ALL
SELECT pool_id, seq, ''::text COLLATE "C", terms, coalesce(order_id, ''), customer_id, consumed_at, call_id, key_hash
FROM consumptions;

UPDATE installation SET event_format = 2 WHERE event_format < 2
"""


def upgrade() -> None:
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
