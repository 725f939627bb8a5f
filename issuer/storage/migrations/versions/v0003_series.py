"""Time series of what pools answered, the pulses of API processes, and the rates of pools with their forecasts."""

from typing import Final

from alembic import op

revision = "0003"
down_revision = "0002"

_SERIES: Final = """
CREATE TABLE series_minutes (
    -- 0: requests to the installation, whatever they asked for.
    pool_id         bigint NOT NULL,
    -- The beginning of the minute, by the clock of the process that counted.
    at              instant NOT NULL,
    -- As the metrics spell it.
    outcome         text NOT NULL,
    count           bigint NOT NULL CHECK (count > 0),
    PRIMARY KEY (pool_id, at, outcome)
);
COMMENT ON TABLE series_minutes IS
    'Answers of each pool by minute and outcome. Each API process adds what it has counted, a killed one some
seconds less. Figures to look at, never to account by: that is the ledger.';
-- What is expired, and the pools that issue at present.
CREATE INDEX series_minutes_by_time ON series_minutes (at, pool_id);

CREATE TABLE series_hours (
    pool_id         bigint NOT NULL,
    at              instant NOT NULL,
    outcome         text NOT NULL,
    count           bigint NOT NULL CHECK (count > 0),
    PRIMARY KEY (pool_id, at, outcome)
);
COMMENT ON TABLE series_hours IS 'The same by hour, and kept for longer.';
CREATE INDEX series_hours_by_time ON series_hours (at);

CREATE TABLE pulses (
    -- One life of an API process.
    process         uuid PRIMARY KEY,
    host            text NOT NULL,
    at              instant NOT NULL,
    -- What the process has answered in the last `period_s` seconds before `at`: requests by outcome, and how many took
    -- how long (the buckets of the metric issuer_redeem_seconds).
    period_s        double precision NOT NULL CHECK (period_s > 0),
    outcomes        jsonb NOT NULL,
    durations       bigint[] NOT NULL
);
COMMENT ON TABLE pulses IS 'What each API process did last, so that every process can show the whole installation.';

CREATE TABLE pool_rates (
    pool_id         bigint PRIMARY KEY REFERENCES pools,
    -- When it was computed. An older one is not shown: the worker stands.
    at              instant NOT NULL,
    -- Codes or uses issued each second, over one minute and over 15.
    per_s_1m        double precision NOT NULL,
    per_s_15m       double precision NOT NULL,
    remaining       bigint NOT NULL,
    -- Null: not within a year, as far as anyone can see.
    empty_at        instant
);
COMMENT ON TABLE pool_rates IS 'How fast each pool that issued within a day empties, and when it will be empty.';
CREATE INDEX pool_rates_by_empty ON pool_rates (empty_at);
"""


def upgrade() -> None:
    for statement in _SERIES.split(";\n"):
        if statement.strip():
            op.execute(statement)
