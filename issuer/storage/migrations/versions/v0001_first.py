"""The tables of the first version."""

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
-- One row: what this installation is, and which Redis server may hand out codes for it.
CREATE TABLE installation (
    one             boolean PRIMARY KEY DEFAULT true CHECK (one),
    partitions      integer NOT NULL CHECK (partitions BETWEEN 1 AND 1024),
    key_format      integer NOT NULL,
    event_format    integer NOT NULL,
    max_backlog     bigint NOT NULL CHECK (max_backlog > 0),
    -- Raised by every recovery; run_id is null while one is going on.
    epoch           bigint NOT NULL DEFAULT 0,
    run_id          text,
    -- What a recovery that is going on has decided, so that one killed in the middle is continued, not begun anew.
    recovering      jsonb
);

-- Every blessing there was. A run_id is never blessed twice.
CREATE TABLE incarnations (
    epoch           bigint PRIMARY KEY,
    run_id          text NOT NULL UNIQUE,
    server          jsonb NOT NULL,
    verdict         text NOT NULL,
    report          jsonb NOT NULL DEFAULT '{}',
    blessed_at      timestamptz NOT NULL DEFAULT now(),
    -- When a process last saw it alive: a server at another address is not blessed while this is fresh.
    seen_at         timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE batches (
    id              uuid PRIMARY KEY,
    name            text NOT NULL CHECK (name <> ''),
    rules           jsonb NOT NULL DEFAULT '{}',
    starts_at       timestamptz,
    ends_at         timestamptz,
    paused          boolean NOT NULL DEFAULT false,
    ended_at        timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- Raised by every change, and rules_revision is that of the last change of the limits. Redis has seen all changes
    -- up to redis_revision, and its windows fit the limits.
    revision        bigint NOT NULL DEFAULT 1,
    rules_revision  bigint NOT NULL DEFAULT 1,
    redis_revision  bigint NOT NULL DEFAULT 0,
    -- An ended batch is freed in Redis in two steps: codes and windows when all its redemptions are in the ledger
    -- (drained), what a replay needs a day later.
    drained_at      timestamptz,
    freed_at        timestamptz
);
CREATE INDEX batches_by_name ON batches (name) WHERE ended_at IS NULL;
CREATE INDEX batches_not_in_redis ON batches (id) WHERE redis_revision < revision;

CREATE TABLE pools (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id        uuid NOT NULL REFERENCES batches,
    client_id       uuid NOT NULL,
    total           bigint NOT NULL DEFAULT 0 CHECK (total >= 0),
    -- Whether the pool was ever opened in Redis: one that was and is gone needs a recovery, not an opening.
    opened          boolean NOT NULL DEFAULT false,
    -- How far Redis was loaded when last seen; a hint that tells the worker which pools need a top-up.
    loaded          bigint NOT NULL DEFAULT 0,
    -- Seqs that were issued in all, once the batch has ended and was drained; until then Redis knows.
    final_issued    bigint,
    UNIQUE (batch_id, client_id)
);
CREATE INDEX pools_by_client ON pools (client_id);
CREATE INDEX pools_not_loaded ON pools (id) WHERE loaded < total;

CREATE TABLE codes (
    pool_id         bigint NOT NULL,
    seq             bigint NOT NULL,
    batch_id        uuid NOT NULL,
    -- Bytes are compared as bytes: what is unique must not depend on the operating system's sorting rules, which
    -- change with its releases.
    code            text COLLATE "C" NOT NULL,
    PRIMARY KEY (pool_id, seq),
    UNIQUE (code, batch_id)
);

-- The ledger. Append-only, but that a customer's id can be erased.
CREATE TABLE redemptions (
    pool_id         bigint NOT NULL,
    seq             bigint NOT NULL,
    batch_id        uuid NOT NULL,
    code            text COLLATE "C" NOT NULL,
    customer_id     uuid,
    redeemed_at     timestamptz NOT NULL,
    call_id         uuid NOT NULL,
    key_hash        bytea,
    api_key_id      integer NOT NULL,
    epoch           bigint NOT NULL,
    recorded_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pool_id, seq),
    UNIQUE (code, batch_id)
);
CREATE INDEX redemptions_by_customer ON redemptions (customer_id, batch_id, redeemed_at);
CREATE INDEX redemptions_by_time ON redemptions USING brin (redeemed_at);

-- Seqs that may have been handed out by a Redis data set that is lost. `released_as`: the new seq of a released one.
CREATE TABLE quarantined (
    pool_id         bigint NOT NULL,
    seq             bigint NOT NULL,
    epoch           bigint NOT NULL,
    quarantined_at    timestamptz NOT NULL DEFAULT now(),
    released_at     timestamptz,
    released_as     bigint,
    PRIMARY KEY (pool_id, seq)
);

-- Events that could not go into the ledger, one row a redemption where the entry could be read (seq known) and one
-- row an entry where it could not.
CREATE TABLE dead_letters (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition       integer NOT NULL,
    stream_id       text NOT NULL,
    epoch           bigint NOT NULL,
    pool_id         bigint,
    seq             bigint,
    reason          text NOT NULL,
    -- The whole stream entry: field names and values in turn.
    raw             bytea[] NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    resolved_at     timestamptz
);
CREATE UNIQUE INDEX dead_letters_once
    ON dead_letters (epoch, partition, stream_id, pool_id, seq) NULLS NOT DISTINCT;

-- What must never happen and did: the same seq with two different stories, a code handed out twice.
CREATE TABLE anomalies (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text NOT NULL,
    pool_id         bigint,
    seq             bigint,
    detail          jsonb NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE api_keys (
    id              integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name            text NOT NULL,
    secret_sha256   bytea NOT NULL UNIQUE CHECK (length(secret_sha256) = 32),
    scopes          text[] NOT NULL CHECK (scopes <@ ARRAY['redeem', 'admin']),
    client_id       uuid,
    created_at      timestamptz NOT NULL DEFAULT now(),
    revoked_at      timestamptz
);

-- Who did what, when: every administrative act, over HTTP and from the command line.
CREATE TABLE audit_log (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL DEFAULT now(),
    actor           text NOT NULL,
    action          text NOT NULL,
    subject         text NOT NULL,
    detail          jsonb NOT NULL DEFAULT '{}'
);

-- Hosts that keep a receipt journal, so that a recovery can name those whose journal it has not seen.
CREATE TABLE journals (
    host            text PRIMARY KEY,
    directory       text NOT NULL,
    seen_at         timestamptz NOT NULL,
    replayed_epoch  bigint NOT NULL DEFAULT 0
);

-- What each API process was told by Redis under an epoch: the highest clock of each partition. `state`: attached (more
-- may come), detached, gone (the process has ended).
CREATE TABLE witnesses (
    name            text PRIMARY KEY,
    seen_at         timestamptz NOT NULL,
    state           text NOT NULL,
    epoch           bigint NOT NULL,
    clocks_ms       jsonb NOT NULL
);

-- A sign of life of each worker, for /readyz and /metrics.
CREATE TABLE workers (
    name            text PRIMARY KEY,
    seen_at         timestamptz NOT NULL,
    detail          jsonb NOT NULL DEFAULT '{}'
);
"""


def upgrade() -> None:
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
