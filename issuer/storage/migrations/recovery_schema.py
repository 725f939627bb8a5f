"""What the processes report about Redis, and what recoveries have decided."""

from typing import Final

RECOVERY: Final = """
CREATE TABLE journals (
    host            text PRIMARY KEY,
    directory       text NOT NULL,
    seen_at         instant NOT NULL,
    replayed_epoch  bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE journals IS
    'Hosts that keep a receipt journal. A recovery names those whose journal was not replayed.';

CREATE TABLE witnesses (
    name            text PRIMARY KEY,
    seen_at         instant NOT NULL,
    -- attached: more may come; detached: the connection has ended; gone: the process has ended.
    state           text NOT NULL,
    epoch           bigint NOT NULL,
    -- The highest of each partition that was seen in this epoch.
    serials         jsonb NOT NULL,
    beats           jsonb NOT NULL
);
COMMENT ON TABLE witnesses IS
    'What each API process, and the recovery that began the epoch, has seen in Redis. Data below that are a loss.';

CREATE TABLE epoch_bases (
    epoch           bigint NOT NULL,
    partition       integer NOT NULL,
    -- The facts of the epoch have higher serials. Those up to it that nothing accounts for were lost with the epochs
    -- before.
    serial          bigint NOT NULL CHECK (serial >= 0),
    PRIMARY KEY (epoch, partition)
);
COMMENT ON TABLE epoch_bases IS 'The serials with which the epochs after a loss of Redis began.'
"""
