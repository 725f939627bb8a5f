"""Rows of maintenance tasks in the schema."""

from typing import Final

TASK_ROWS: Final = """
CREATE TABLE task_rows (
    task            text NOT NULL,
    -- The id of the row, as text; empty for an error outside any row.
    row_id          text NOT NULL,
    -- Differs once the row has changed: then it is tried at once.
    version         bigint NOT NULL DEFAULT 0,
    -- The worker that processes the row now, and its session: a mark whose session has ended is that of a dead worker.
    worker          text,
    session         integer,
    -- Failures in a row, the last error, and when the next attempt is due.
    failures        integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    error           text,
    first_at        instant,
    last_at         instant,
    retry_at        instant,
    PRIMARY KEY (task, row_id),
    CHECK (failures = 0 OR (error, first_at, last_at, retry_at) IS NOT NULL)
);
COMMENT ON TABLE task_rows IS
    'Rows that a maintenance task processes now, or could not process. A row that was processed is not here.'
"""
