"""Imports in the schema: which batches were taken over from another service."""

from typing import Final

IMPORTS: Final = """
CREATE TABLE imported_batches (
    batch_id        uuid PRIMARY KEY REFERENCES batches,
    -- The service that had it, such as ango. A repeated import adds to the batch; no other batch with this id is its.
    source          text NOT NULL,
    imported_at     instant NOT NULL DEFAULT now()
);
COMMENT ON TABLE imported_batches IS
    'Batches that issuer import took over. Redemptions that it recorded have epoch 0 and the id of the run as call_id.'
"""
