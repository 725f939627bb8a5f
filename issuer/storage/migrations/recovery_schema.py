"""What the processes report about Redis, and what recoveries have decided."""

from typing import Final

RECOVERY: Final = """
CREATE TABLE registrations (
    -- Of the journal of the process, which has it in its head. Random where the process has no journal.
    journal_id      uuid NOT NULL,
    epoch           bigint NOT NULL,
    process         text NOT NULL,
    host            text NOT NULL,
    -- Of the host: a journal of an earlier boot may lack its end.
    boot_id         text NOT NULL,
    has_journal     boolean NOT NULL,
    registered_at   instant NOT NULL DEFAULT clock_timestamp(),
    seen_at         instant NOT NULL DEFAULT clock_timestamp(),
    -- The highest of each partition that the process saw in this epoch.
    serials         jsonb NOT NULL DEFAULT '{}',
    beats           jsonb NOT NULL DEFAULT '{}',
    -- When the process closed its connections: it receives nothing more under this registration.
    left_at         instant,
    -- The highest serials that were answered under it, once all of that is in the ledger. Null: something may be
    -- missing.
    settled         jsonb,
    settled_at      instant,
    PRIMARY KEY (journal_id, epoch),
    CHECK ((settled IS NULL) = (settled_at IS NULL))
);
COMMENT ON TABLE registrations IS
    'The processes that may have received answers of an epoch, and what each has seen of its data. Data below that are a
loss, which costs codes only while a registration of it is not settled.';
CREATE INDEX registrations_open ON registrations (epoch) WHERE settled IS NULL;

CREATE TABLE quarantined (
    pool_id         bigint NOT NULL,
    seq             bigint NOT NULL,
    -- The epoch that began with the recovery which quarantined it, and the epochs that were lost then: after which one
    -- and up to which one. Once every registration of those is settled the seq is released. Null: an operator announced
    -- the loss, and decides about the seq.
    epoch           bigint NOT NULL,
    lost_after      bigint,
    lost_to         bigint,
    quarantined_at  instant NOT NULL DEFAULT now(),
    -- Set when it was released; released_as is the new seq of its code.
    released_at     instant,
    released_as     bigint,
    PRIMARY KEY (pool_id, seq)
);
COMMENT ON TABLE quarantined IS
    'Seqs that a lost Redis may have issued. A late event moves its seq from here into the ledger.';

CREATE TABLE void_seqs (
    pool_id         bigint NOT NULL,
    seq             bigint NOT NULL,
    -- The one that began with the recovery which proved that the seq was answered to no caller.
    epoch           bigint NOT NULL,
    -- The new seq of its code; null until the worker has given it one.
    reissued_as     bigint,
    PRIMARY KEY (pool_id, seq)
);
COMMENT ON TABLE void_seqs IS
    'Seqs that a lost Redis had issued and that no caller received. An event with one is never recorded.';
CREATE INDEX void_seqs_to_reissue ON void_seqs (pool_id) WHERE reissued_as IS NULL;

CREATE TABLE epoch_bases (
    epoch           bigint NOT NULL,
    partition       integer NOT NULL,
    -- The facts of the epoch have higher serials, so those of earlier epochs that do are void. After a loss, those up
    -- to it that nothing accounts for were lost with the epochs before.
    serial          bigint NOT NULL CHECK (serial >= 0),
    after_loss      boolean NOT NULL,
    -- Redemptions of earlier epochs that came later and were refused.
    refused         bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (epoch, partition)
);
COMMENT ON TABLE epoch_bases IS 'The serials with which the epochs began.';

CREATE TABLE late_rows (
    pool_id         bigint NOT NULL,
    seq             bigint NOT NULL,
    PRIMARY KEY (pool_id, seq)
);
COMMENT ON TABLE late_rows IS
    'Rows of the ledger that were recorded after Redis was rebuilt without them. Removed once Redis has their windows
and answers.'
"""
