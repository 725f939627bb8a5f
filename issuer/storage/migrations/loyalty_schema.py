"""Loyalty in the schema: programs with their terms, accounts of points, the ledger of their entries, orders and moves.

Postgres decides about points. A transaction locks the accounts that it changes, in the order of their ids, and what
belongs to an account is read and written under its lock. So nothing but the accounts is locked, and the tables have no
foreign keys to each other: each row would cost a look-up that the lock has answered already.

An account is a cache of its entries; `issuer reconcile` compares them. Its buckets are in its row, so that an operation
changes one row and inserts one. The bound of every figure is 10**12, which keeps sums of a million accounts within a
bigint.
"""

from typing import Final

LOYALTY: Final = """
CREATE DOMAIN points AS bigint CONSTRAINT within_bounds CHECK (VALUE BETWEEN 0 AND 1000000000000);
COMMENT ON DOMAIN points IS 'A number of points, or of minor units of a currency: never negative, at most 10^12.';

CREATE TABLE loyalty_programs (
    id              uuid PRIMARY KEY,
    client_id       uuid NOT NULL,
    name            text NOT NULL CHECK (name <> ''),
    -- 'points', or the three letters of a currency: then a balance is stored value in its minor units.
    unit            text NOT NULL CHECK (unit = 'points' OR unit ~ '^[A-Z]{3}$'),
    -- A name of the IANA database: days, months and years of the terms begin and end there.
    timezone        text NOT NULL,
    state           text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'paused', 'ended')),
    -- Of the latest terms.
    terms_number    integer NOT NULL CHECK (terms_number >= 1),
    created_at      instant NOT NULL DEFAULT now()
);
COMMENT ON TABLE loyalty_programs IS 'Loyalty programs, each of one client.';
-- Requests name a program by its id or its name.
CREATE UNIQUE INDEX loyalty_programs_by_name ON loyalty_programs (client_id, name) WHERE state <> 'ended';
CREATE INDEX loyalty_programs_of_client ON loyalty_programs (client_id, created_at, id);

CREATE TABLE program_terms (
    program_id      uuid NOT NULL REFERENCES loyalty_programs,
    number          integer NOT NULL CHECK (number >= 1),
    terms           jsonb NOT NULL,
    created_at      instant NOT NULL DEFAULT now(),
    PRIMARY KEY (program_id, number)
);
COMMENT ON TABLE program_terms IS 'Every version of the terms of a program; entries refer to them.';

CREATE TABLE accounts (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    program_id      uuid NOT NULL,
    -- Null: a gift card, found by the number of its card.
    member_id       uuid,
    -- Of the latest entry: 1, 2, 3, … without gaps.
    seq             bigint NOT NULL DEFAULT 0 CHECK (seq >= 0),
    available       points NOT NULL DEFAULT 0,
    held            points NOT NULL DEFAULT 0,
    pending         points NOT NULL DEFAULT 0,
    debt            points NOT NULL DEFAULT 0,
    lifetime        points NOT NULL DEFAULT 0,
    -- What was earned and spent on that day in the program's time zone, for the limits of a day.
    day             date NOT NULL DEFAULT '1970-01-01' CHECK (day BETWEEN '1969-12-31' AND '9999-12-31'),
    day_earned      points NOT NULL DEFAULT 0,
    day_spent       points NOT NULL DEFAULT 0,
    -- Its available points by the instant from which on they have expired: [[ms since 1970, points], …], soonest first.
    buckets         jsonb NOT NULL DEFAULT '[]',
    -- The first instant at which something expires or becomes available; 9999-12-30: nothing does.
    due_at          instant NOT NULL DEFAULT '9999-12-30T00:00:00Z',
    -- Of the latest operation. The clock of an account never runs backwards, whatever the host's does.
    touched_at      instant NOT NULL DEFAULT '1970-01-01T00:00:00Z',
    -- The latest entry when a merge moved everything to another account; 0: none has.
    merged_seq      bigint NOT NULL DEFAULT 0,
    -- The account that has everything since a merge. A merged account takes no operation.
    merged_into     bigint,
    created_at      instant NOT NULL DEFAULT now(),
    CHECK (debt = 0 OR available = 0)
) WITH (fillfactor = 80);
COMMENT ON TABLE accounts IS 'Balances: of one member in one program, or of one gift card. No personal data.';
CREATE UNIQUE INDEX accounts_of_member ON accounts (member_id, program_id) WHERE member_id IS NOT NULL;
CREATE INDEX accounts_of_program ON accounts (program_id, id);
-- Only a change of due_at touches it, so most updates of an account stay in their page.
CREATE INDEX accounts_due ON accounts (due_at) WHERE due_at < '9999-12-30T00:00:00Z';

CREATE TABLE points_holds (
    id              uuid PRIMARY KEY,
    account_id      bigint NOT NULL,
    points          points NOT NULL CHECK (points > 0),
    captured        points NOT NULL DEFAULT 0 CHECK (captured <= points),
    expires_at      instant NOT NULL,
    state           text NOT NULL CHECK (state IN ('open', 'captured', 'released', 'expired')),
    -- What it holds, as [[expires_at in ms, points], …], soonest first.
    buckets         jsonb NOT NULL,
    -- The entry that placed it.
    seq             bigint NOT NULL
);
COMMENT ON TABLE points_holds IS 'Points that are reserved until they are captured, released or the hold expires.';
CREATE INDEX points_holds_open ON points_holds (account_id) WHERE state = 'open';

CREATE TABLE pending_points (
    -- The entry that earned them.
    earned_by       bigint NOT NULL,
    earned_seq      bigint NOT NULL,
    -- Whose they are now: another account after a merge.
    account_id      bigint NOT NULL,
    points          points NOT NULL CHECK (points > 0),
    available_at    instant NOT NULL,
    expires_at      instant NOT NULL,
    PRIMARY KEY (earned_by, earned_seq)
);
COMMENT ON TABLE pending_points IS 'Points that were earned and become available later.';
CREATE INDEX pending_points_of_account ON pending_points (account_id);

CREATE TABLE entries (
    account_id      bigint NOT NULL,
    seq             bigint NOT NULL CHECK (seq >= 1),
    op              text NOT NULL,
    points          points NOT NULL,
    -- After the entry.
    available       points NOT NULL,
    held            points NOT NULL,
    pending         points NOT NULL,
    debt            points NOT NULL,
    lifetime        points NOT NULL,
    order_source    text,
    order_id        text,
    reason          text,
    -- The entry that this one reverses, whole or in part.
    reverses_seq    bigint,
    hold_id         uuid,
    move_id         uuid,
    terms_number    integer NOT NULL,
    occurred_at     instant NOT NULL,
    -- Of a debit: what it took, as [[expires_at in ms, points], …], soonest first. A reversal restores it.
    buckets         jsonb,
    -- SHA-256 of the Idempotency-Key.
    key_hash        bytea,
    -- Null: a command or the worker.
    api_key_id      integer,
    staff_id        uuid,
    PRIMARY KEY (account_id, seq)
);
COMMENT ON TABLE entries IS 'The ledger of points: one line for each change of an account. Append-only.';
CREATE INDEX entries_by_reversed ON entries (account_id, reverses_seq) WHERE reverses_seq IS NOT NULL;
CREATE INDEX entries_by_time ON entries USING brin (occurred_at);

-- As which a transaction passes what it writes. They are no row types of the tables: those change with each column that
-- a migration adds, and a process that runs meanwhile passes what it knows.
CREATE TYPE changed_account AS (
    id bigint, seq bigint, available bigint, held bigint, pending bigint, debt bigint, lifetime bigint, day date,
    day_earned bigint, day_spent bigint, buckets jsonb, due_at timestamptz, touched_at timestamptz, merged_seq bigint
);
CREATE TYPE new_entry AS (
    account_id bigint, seq bigint, op text, points bigint, available bigint, held bigint, pending bigint, debt bigint,
    lifetime bigint, order_source text, order_id text, reason text, reverses_seq bigint, hold_id uuid, move_id uuid,
    terms_number integer, occurred_at timestamptz, buckets jsonb, key_hash bytea, api_key_id integer, staff_id uuid
);

CREATE TABLE orders (
    program_id      uuid NOT NULL,
    source          text COLLATE "C" NOT NULL,
    order_id        text COLLATE "C" NOT NULL,
    amount_minor    points NOT NULL,
    refunded_minor  points NOT NULL DEFAULT 0 CHECK (refunded_minor <= amount_minor),
    -- What it earned, and how much of that was taken back.
    points          points NOT NULL,
    reversed        points NOT NULL DEFAULT 0 CHECK (reversed <= points),
    -- Whose it is now: another account after a merge.
    account_id      bigint NOT NULL,
    -- The entry that earned them.
    earned_by       bigint NOT NULL,
    earned_seq      bigint NOT NULL,
    -- What the terms said then.
    on_refund       text NOT NULL CHECK (on_refund IN ('debt', 'clamp')),
    PRIMARY KEY (program_id, source, order_id)
);
COMMENT ON TABLE orders IS 'Orders that earned points: each once, without a limit of time.';
CREATE INDEX orders_of_account ON orders (account_id);

CREATE TABLE moves (
    id              uuid PRIMARY KEY,
    kind            text NOT NULL CHECK (kind IN ('transfer', 'purchase', 'merge')),
    program_id      uuid NOT NULL,
    from_account    bigint NOT NULL,
    -- Null: a purchase.
    to_account      bigint CHECK ((to_account IS NULL) = (kind = 'purchase')),
    points          points NOT NULL,
    reward_id       uuid CHECK ((reward_id IS NULL) = (kind <> 'purchase')),
    batch_id        uuid,
    state           text NOT NULL CHECK (state IN ('debited', 'done', 'undone')),
    code            text,
    -- The entry that debited from_account.
    seq             bigint NOT NULL,
    created_at      instant NOT NULL,
    settled_at      instant,
    CHECK ((settled_at IS NULL) = (state = 'debited'))
);
COMMENT ON TABLE moves IS
    'Points that leave an account for something else: another account, or the code of a reward. A debited one is worked
on until it is done or undone.';
CREATE INDEX moves_debited ON moves (created_at) WHERE state = 'debited';
CREATE INDEX moves_of_account ON moves (from_account, created_at)
"""
