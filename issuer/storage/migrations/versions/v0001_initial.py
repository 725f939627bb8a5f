"""The initial schema, in the order of a code's life: loaded, redeemed, recorded; then what watches over that.

Each constant is one chapter. A table's comment is stored in the database (``\\dt+`` in psql shows it); columns and
indexes are described beside them. Redis decides, so a redemption locks nothing here. What the tables guard is that each
fact is recorded once, and that a lost Redis can be rebuilt from them.

Codes are compared as bytes (COLLATE "C"): uniqueness must not depend on the operating system's sorting rules, which
change between its releases. The ledger has no foreign key to `pools`: the statement that records a fact looks it up.
"""

from typing import Final

from alembic import op

from issuer.storage.migrations import (
    audit_schema,
    clients_schema,
    import_schema,
    lineage_schema,
    loyalty_chapters,
    recovery_schema,
)
from issuer.storage.migrations.owner_functions import OWNER_FUNCTIONS
from issuer.storage.migrations.tasks_schema import TASK_ROWS

revision = "0001"
down_revision = None

_INSTANT: Final = """
CREATE DOMAIN instant AS timestamptz
    CONSTRAINT within_bounds CHECK (VALUE BETWEEN '1970-01-01T00:00:00Z' AND '9999-12-30T00:00:00Z');
COMMENT ON DOMAIN instant IS
    'A point in time that every process can read: the type of all times. Infinity and years that Python does not have
are refused, whatever way they come.'
"""

_INSTALLATION: Final = """
CREATE TABLE installation (
    -- Allows a single row.
    one             boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Stored in Redis, too: data of another installation are neither fenced nor drained.
    id              uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The database in which this row was written, or adopted: a copy of it has another identity. Null: adopted next.
    database        text,
    -- Fixed at the first start: the partition of a batch follows from it.
    partitions      integer NOT NULL CHECK (partitions BETWEEN 1 AND 1024),
    -- A version with another key format, or with an older event format, refuses to start.
    key_format      integer NOT NULL,
    event_format    integer NOT NULL,
    -- Redemptions of a partition that may wait for the ledger. Never below what Redis enforces, since a recovery
    -- quarantines that many codes of each pool.
    max_backlog     bigint NOT NULL CHECK (max_backlog > 0),
    -- The blessed pair. Every recovery raises epoch; run_id is null while a recovery runs.
    epoch           bigint NOT NULL DEFAULT 0,
    run_id          text,
    -- What the running recovery has decided. The next process continues from it when this one is killed.
    recovering      jsonb,
    -- Of Postgres, when an epoch began that was no restart. Another one since may have forgotten registrations.
    timeline        text,
    -- What only an operator can resolve, in words; null: nothing. See the table lineage.
    incident        text,
    -- The last epoch that was lost. Redis was rebuilt from the ledger since.
    lost_epoch      bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE installation IS
    'One row: this installation and the Redis server that may issue codes for it. Transactions that write to the ledger
lock it FOR SHARE, so that a recovery sees all of each or nothing.';

CREATE TABLE incarnations (
    -- The Redis primary. There is one as yet; a cluster will have more, each with epochs of its own.
    shard           integer NOT NULL DEFAULT 0,
    epoch           bigint NOT NULL,
    -- A run_id that was replaced is never blessed again.
    run_id          text NOT NULL UNIQUE,
    -- Address, directory and durability: a restart keeps them, anything else is a loss.
    server          jsonb NOT NULL,
    verdict         text NOT NULL,
    report          jsonb NOT NULL DEFAULT '{}',
    blessed_at      instant NOT NULL DEFAULT now(),
    -- Heartbeat of the server. While it is fresh, no server at another address is blessed.
    seen_at         instant NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, epoch)
);
COMMENT ON TABLE incarnations IS 'Every Redis server that was blessed, with the verdict and report of its recovery.'
"""

_BATCHES: Final = """
CREATE TABLE batches (
    id              uuid PRIMARY KEY,
    -- The slice of Redis that holds the batch. It follows from the id.
    partition       integer NOT NULL CHECK (partition >= 0),
    name            text NOT NULL CHECK (name <> ''),
    -- codes: each is issued to one customer. coupon: one code with many uses, and one pool without rows in codes.
    kind            text NOT NULL DEFAULT 'codes' CHECK (kind IN ('codes', 'coupon')),
    rules           jsonb NOT NULL DEFAULT '{}',
    starts_at       instant,
    ends_at         instant,
    paused          boolean NOT NULL DEFAULT false,
    ended_at        instant,
    created_at      instant NOT NULL DEFAULT now(),
    -- Raised by every change; rules_revision is the revision that last changed the limits. Redis has every change up to
    -- redis_revision, and its windows fit those limits.
    revision        bigint NOT NULL DEFAULT 1,
    -- Of this revision, written to Redis with it. The token of the revision before is in lineage.
    token           uuid NOT NULL DEFAULT gen_random_uuid(),
    rules_revision  bigint NOT NULL DEFAULT 1,
    redis_revision  bigint NOT NULL DEFAULT 0,
    -- An ended batch is freed in Redis in two steps: codes and windows once all its redemptions are in the ledger
    -- (drained_at), then, a day later, what a replay of an Idempotency-Key needs (freed_at).
    drained_at      instant,
    freed_at        instant
);
COMMENT ON TABLE batches IS 'Named sets of codes with rules. Redis holds a copy of each until the batch is freed.';
-- A name finds the open batch or, if there is none, the newest one.
CREATE INDEX batches_by_name ON batches (name, created_at) WHERE kind = 'codes';
CREATE INDEX batches_by_time ON batches (created_at, id) WHERE kind = 'codes';
CREATE INDEX batches_not_in_redis ON batches (id) WHERE redis_revision < revision;
CREATE INDEX batches_by_partition ON batches (partition, ended_at);

CREATE TABLE pools (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id        uuid NOT NULL REFERENCES batches,
    client_id       uuid NOT NULL,
    -- The highest seq.
    total           bigint NOT NULL DEFAULT 0 CHECK (total >= 0),
    -- Set before the pool is first opened in Redis: an opened pool that Redis lacks needs a recovery.
    opened          boolean NOT NULL DEFAULT false,
    -- The seq that Redis was loaded to when last seen: a hint for top-ups, which may be too low.
    loaded          bigint NOT NULL DEFAULT 0,
    -- Seqs issued in all, once the batch has ended and was drained; until then Redis counts them.
    final_issued    bigint,
    UNIQUE (batch_id, client_id)
);
COMMENT ON TABLE pools IS 'The codes of one client in one batch, in the order in which they are issued.';
CREATE INDEX pools_by_client ON pools (client_id);
-- Candidates for a top-up.
CREATE INDEX pools_not_loaded ON pools (id) WHERE loaded < total;

CREATE TABLE codes (
    pool_id         bigint NOT NULL,
    -- 1, 2, 3, … without gaps in a pool; the order in which Redis issues the codes.
    seq             bigint NOT NULL,
    batch_id        uuid NOT NULL,
    client_id       uuid NOT NULL,
    code            text COLLATE "C" NOT NULL,
    attributes      jsonb,
    PRIMARY KEY (pool_id, seq),
    -- A client has a code once, whatever batch it is in. The prefix finds a code in a batch, whatever pool it is in.
    UNIQUE (code, client_id)
);
COMMENT ON TABLE codes IS
    'All codes that were loaded or generated. A row stays when its code is redeemed; a code that was not can be moved.';

CREATE TABLE generation_jobs (
    id              uuid PRIMARY KEY,
    batch_id        uuid NOT NULL REFERENCES batches,
    client_id       uuid NOT NULL,
    format          jsonb NOT NULL,
    -- Identifies the set of codes that the format can spell, however it is written.
    spelling        text COLLATE "C" NOT NULL,
    count           bigint NOT NULL CHECK (count > 0),
    -- Raised in the transaction that inserts the codes: a killed job continues exactly.
    made            bigint NOT NULL DEFAULT 0 CHECK (made BETWEEN 0 AND count),
    state           text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed')),
    -- Why it failed.
    problem         text,
    actor           text NOT NULL,
    created_at      instant NOT NULL DEFAULT now(),
    -- When a process last worked on it. Next is the client for which that is longest ago, then its oldest job.
    touched_at      instant NOT NULL DEFAULT now(),
    finished_at     instant,
    -- When its caller received its id or its result. Until then the same command, repeated, continues this job.
    announced_at    instant
);
COMMENT ON TABLE generation_jobs IS 'Requests to generate codes, and how many codes of each exist.';
CREATE INDEX generation_jobs_open ON generation_jobs (touched_at) WHERE finished_at IS NULL;
CREATE INDEX generation_jobs_by_batch ON generation_jobs (batch_id);
CREATE INDEX generation_jobs_by_client ON generation_jobs (client_id);
CREATE INDEX generation_jobs_served ON generation_jobs (client_id, touched_at) WHERE touched_at > created_at
"""

_COUPONS: Final = """
CREATE TABLE coupons (
    -- Derived from client and folded code, so that a use finds partition and keys without a look-up. Expiry, limits,
    -- pause and end are those of the batch.
    batch_id        uuid PRIMARY KEY REFERENCES batches,
    pool_id         bigint NOT NULL UNIQUE REFERENCES pools,
    client_id       uuid NOT NULL,
    code            text COLLATE "C" NOT NULL CHECK (code <> ''),
    -- The code without what a look-up ignores: spaces, dashes and, unless case_sensitive, case. fully_folded is always
    -- without case, and also reads O as 0, and I and L as 1.
    folded          text COLLATE "C" NOT NULL CHECK (folded <> ''),
    fully_folded    text COLLATE "C" NOT NULL CHECK (fully_folded <> ''),
    -- Whether look-ups may use fully_folded: the alphabet of the code allows it.
    unambiguous     boolean NOT NULL,
    case_sensitive  boolean NOT NULL DEFAULT false,
    -- Uses in all = available + reversed + released; fewer than were numbered if the coupon was stopped.
    available       bigint NOT NULL CHECK (available >= 0),
    reversed        bigint NOT NULL DEFAULT 0 CHECK (reversed >= 0),
    released        bigint NOT NULL DEFAULT 0 CHECK (released >= 0),
    product_id      text,
    promo_type      text,
    discount_fixed  numeric CHECK (discount_fixed > 0),
    currency        text CHECK (currency ~ '^[A-Z]{3}$'),
    -- Percent.
    discount_variable numeric CHECK (discount_variable > 0 AND discount_variable <= 100),
    -- The current number in coupon_terms.
    terms           integer NOT NULL DEFAULT 1,
    updated_at      instant NOT NULL DEFAULT now(),
    CHECK (NOT (case_sensitive AND unambiguous))
);
COMMENT ON TABLE coupons IS 'Codes that may be used many times: batches of kind coupon.';
CREATE INDEX coupons_by_code ON coupons (fully_folded);
-- A client has no two coupons that a customer could confuse, but those that differ in case and are case_sensitive.
CREATE UNIQUE INDEX coupons_of_client ON coupons (client_id, fully_folded) WHERE NOT case_sensitive;

CREATE TABLE coupon_terms (
    pool_id         bigint NOT NULL REFERENCES pools,
    -- Carried by every use, so that the ledger shows what the use was worth.
    number          integer NOT NULL,
    -- json, not jsonb: responses repeat it byte for byte.
    terms           json NOT NULL,
    created_at      instant NOT NULL DEFAULT now(),
    PRIMARY KEY (pool_id, number)
);
COMMENT ON TABLE coupon_terms IS 'Every version of product and discount that a coupon has had.'
"""

_CAMPAIGNS: Final = """
CREATE TABLE campaigns (
    batch_id        uuid PRIMARY KEY REFERENCES batches,
    client_id       uuid NOT NULL,
    code_format     jsonb NOT NULL,
    -- Whether a code may be requested without an API key.
    public          boolean NOT NULL DEFAULT false,
    created_at      instant NOT NULL DEFAULT now(),
    -- When it could first issue. Until then it is not listed.
    ready_at        instant,
    -- Raised by every change of the row: a changed sum over all rows makes the processes reload their cache.
    revision        bigint NOT NULL DEFAULT 1,
    FOREIGN KEY (batch_id, client_id) REFERENCES pools (batch_id, client_id)
);
COMMENT ON TABLE campaigns IS 'Batches with one pool of generated codes, issued first come, first served.';
CREATE INDEX campaigns_by_time ON campaigns (created_at, batch_id)
"""

_LEDGER: Final = """
CREATE TABLE redemptions (
    pool_id         bigint NOT NULL,
    seq             bigint NOT NULL,
    batch_id        uuid NOT NULL,
    code            text COLLATE "C" NOT NULL,
    -- Null: redeemed without a customer id, or erased.
    customer_id     uuid,
    -- What the caller gave as the id, from which the UUID is derived; null: the UUID.
    customer_text   text,
    -- Redis' clock, which also decided the limits.
    redeemed_at     instant NOT NULL,
    -- The script call, random: the same seq with another call_id is an anomaly. Null: recorded from a replay's receipt.
    call_id         uuid,
    -- Hash of customer and Idempotency-Key: a recovery restores the kept answers from it.
    key_hash        bytea,
    api_key_id      integer NOT NULL,
    epoch           bigint NOT NULL,
    -- Its number among all facts of its partition. Null: imported.
    serial          bigint CHECK (serial > 0),
    recorded_at     instant NOT NULL DEFAULT now(),
    -- An event that is delivered again is a duplicate.
    PRIMARY KEY (pool_id, seq) INCLUDE (serial),
    -- A code is issued once in its batch, whatever its seq.
    UNIQUE (code, batch_id)
);
COMMENT ON TABLE redemptions IS
    'The ledger of codes: one code issued to one customer. Append-only, except that a customer id can be erased.';
-- Rebuilds a customer's window; lists a customer's redemptions.
CREATE INDEX redemptions_by_customer ON redemptions (customer_id, batch_id, redeemed_at);
-- Reports of a period. Rows arrive almost in this order, so a BRIN index suffices.
CREATE INDEX redemptions_by_time ON redemptions USING brin (redeemed_at);

CREATE TABLE consumptions (
    pool_id         bigint NOT NULL,
    -- The number of the use, in the place of a code's seq.
    seq             bigint NOT NULL,
    terms           integer NOT NULL,
    customer_id     uuid,
    customer_text   text,
    order_id        text,
    consumed_at     instant NOT NULL,
    call_id         uuid NOT NULL,
    key_hash        bytea,
    api_key_id      integer NOT NULL,
    epoch           bigint NOT NULL,
    serial          bigint CHECK (serial > 0),
    recorded_at     instant NOT NULL DEFAULT now(),
    PRIMARY KEY (pool_id, seq) INCLUDE (serial)
);
COMMENT ON TABLE consumptions IS 'The ledger of coupons: one use each. Append-only, like redemptions.';
CREATE INDEX consumptions_by_customer ON consumptions (customer_id, consumed_at);
CREATE INDEX consumptions_by_time ON consumptions USING brin (consumed_at);

CREATE TABLE reversals (
    pool_id         bigint NOT NULL,
    seq             bigint NOT NULL,
    actor           text NOT NULL,
    reversed_at     instant NOT NULL DEFAULT now(),
    -- When Redis stopped counting the use against the customer's limits.
    returned_at     instant,
    -- A use is reversed at most once.
    PRIMARY KEY (pool_id, seq),
    FOREIGN KEY (pool_id, seq) REFERENCES consumptions
);
COMMENT ON TABLE reversals IS 'Consumptions that were reversed.';
CREATE INDEX reversals_not_returned ON reversals (pool_id) WHERE returned_at IS NULL;

CREATE VIEW ledger AS
SELECT pool_id, seq, code, 0 AS terms, ''::text AS order_id, customer_id, customer_text, redeemed_at,
  call_id, key_hash, epoch, serial FROM redemptions
UNION ALL
SELECT pool_id, seq, ''::text COLLATE "C", terms, coalesce(order_id, ''), customer_id, customer_text, consumed_at,
  call_id, key_hash, epoch, serial FROM consumptions;
COMMENT ON VIEW ledger IS 'Both halves of the ledger, for every question about which seqs are accounted for.'
"""

_UNRECORDED: Final = """
CREATE TABLE dead_letters (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition       integer NOT NULL,
    stream_id       text NOT NULL,
    epoch           bigint NOT NULL,
    -- Null when the entry could not be read: one row then stands for all of its redemptions.
    pool_id         bigint,
    seq             bigint,
    reason          text NOT NULL,
    -- The whole stream entry, field names and values alternating, so that it can be recorded later.
    raw             bytea[] NOT NULL,
    created_at      instant NOT NULL DEFAULT now(),
    resolved_at     instant,
    -- The first serial and the number of the facts that the letter stands for; serial null: not known.
    serial          bigint,
    facts           bigint NOT NULL DEFAULT 1
);
COMMENT ON TABLE dead_letters IS 'Events that could not be recorded, kept whole until an operator resolves them.';
-- An entry that is delivered again adds no second letter.
CREATE UNIQUE INDEX dead_letters_once
    ON dead_letters (epoch, partition, stream_id, pool_id, seq) NULLS NOT DISTINCT;

CREATE TABLE anomalies (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text NOT NULL,
    pool_id         bigint,
    seq             bigint,
    detail          jsonb NOT NULL,
    created_at      instant NOT NULL DEFAULT now()
);
COMMENT ON TABLE anomalies IS 'Contradictions between an event and the ledger. Each may be a broken promise.'
"""

_PROCESSES: Final = """
CREATE TABLE workers (
    name            text PRIMARY KEY,
    seen_at         instant NOT NULL,
    detail          jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE workers IS 'Heartbeat and progress of each worker, for /readyz and /metrics.'
"""

_ACCESS: Final = """
CREATE TABLE api_keys (
    id              integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            text NOT NULL,
    -- The secret itself is not stored.
    secret_sha256   bytea NOT NULL UNIQUE CHECK (length(secret_sha256) = 32),
    scopes          text[] NOT NULL CHECK (scopes <@ ARRAY['redeem', 'admin', 'public']),
    -- Null: the key may act for every client.
    client_id       uuid,
    created_at      instant NOT NULL DEFAULT now(),
    revoked_at      instant,
    -- As written in settings, such as 100/s or off. Null: the limit of the settings.
    rate_limit      text,
    failed_lookup_limit text
);
COMMENT ON TABLE api_keys IS 'API keys. A key is revoked, never deleted: the ledger refers to it.';

CREATE TABLE stored_secrets (
    -- Whose it is, such as shop:ID.
    owner           text NOT NULL CHECK (owner <> ''),
    name            text NOT NULL CHECK (name <> ''),
    -- Names the key of ISSUER_SECRET_KEY that decrypts it.
    key_id          bytea NOT NULL,
    -- Encrypted, and bound to owner and name: it decrypts in no other row.
    sealed          bytea NOT NULL,
    changed_at      instant NOT NULL DEFAULT now(),
    PRIMARY KEY (owner, name)
);
COMMENT ON TABLE stored_secrets IS 'Secrets that must be readable again, encrypted with ISSUER_SECRET_KEY.';

CREATE TABLE kept_answers (
    -- Of the API key; zero: it is bound to no client, or there is none.
    client_id       uuid NOT NULL,
    route           text NOT NULL,
    key             text COLLATE "C" NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    -- A request with the same key and another hash is refused.
    request_sha256  bytea NOT NULL CHECK (length(request_sha256) = 32),
    -- A failed request may be repeated, so its answer is not kept.
    status          integer NOT NULL CHECK (status BETWEEN 200 AND 299),
    headers         jsonb NOT NULL,
    body            bytea NOT NULL CHECK (length(body) <= 262144),
    kept_at         instant NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (client_id, route, key)
);
COMMENT ON TABLE kept_answers IS 'Answers to Idempotency-Keys, written in the transaction of the act, for 24 hours.';
CREATE INDEX kept_answers_by_time ON kept_answers (kept_at)
"""


def upgrade() -> None:
    chapters = (
        _INSTANT, _INSTALLATION, _BATCHES, _COUPONS, _CAMPAIGNS, _LEDGER, _UNRECORDED, _PROCESSES,
        recovery_schema.RECOVERY, lineage_schema.LINEAGE, TASK_ROWS, _ACCESS, clients_schema.CLIENTS,
        import_schema.IMPORTS, *loyalty_chapters.CHAPTERS, OWNER_FUNCTIONS,
    )  # fmt: skip
    for chapter in chapters:
        for statement in chapter.split(";\n"):
            op.execute(statement)
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for statement in (*lineage_schema.STATEMENTS, *audit_schema.statements(schema)):
        op.execute(statement)
