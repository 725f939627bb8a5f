"""Descriptions of fields and parameters that mean the same wherever they are. A schema may describe its own instead."""

from __future__ import annotations

from typing import Final

FIELDS: Final[dict[str, str]] = {
    # Ids
    "id": "Its id, for paths and other requests",
    "batch_id": "Id of the batch",
    "batchid": "Id of the batch",
    "campaign_id": "Id of the campaign",
    "campaignId": "Id of the campaign",
    "client_id": "Id of the client that owns the codes",
    "clientid": "Id of the client that owns the codes",
    "consumption_id": "Id of the use, for its reversal",
    "coupon_id": "Id of the coupon",
    "customer_id": "The caller's own id of the customer",
    "customerid": "The caller's own id of the customer, whose limits apply",
    "endpoint": "Id of the hook",
    "hold_id": "Id of the hold",
    "hook": "Id of the hook",
    "epoch": "The epoch that the recovery began",
    "key_id": "Id of the API key",
    "run_id": "Id of the run",
    "operator_id": "Id of the operator",
    "job_id": "Id of the generation job",
    "member": "Id of the member, or the caller's own `ref`",
    "number": "Number of the card, in any case, with or without hyphens",
    "order_id": "The caller's id of the order",
    "product_id": "The product that the coupon is for",
    "program": "Name or id of the program",
    "reward_id": "Id of the reward",
    # Names and texts
    "batch_name": "Name of the batch",
    "code": "The code",
    "currency": "An ISO 4217 code; default: that of the terms",
    "name": "A name for people; it need not be unique",
    # Numbers
    "code_length": "Number of characters of the code",
    "codes": "Number of codes",
    "line": "Line of the file, from 1",
    "first_line": "Line of the first row with this code",
    "remaining": "Uses that are left",
    # States
    "deleted": "true: the coupon was deleted, which is final",
    "paused": "true: nothing is issued until this is false",
    "reason": "Why, as a fixed text; null: there is none",
    "reason_code": "Why, as a name that keeps its meaning; null: there is none",
    "rules": "Limits per customer",
    # Times
    "created_at": "When it was created",
    "finished_at": "When it was finished; null: it is not",
    "redeemed_at": "When the code was issued to the customer",
    "reversed_at": "When the use was reversed",
    "updated_at": "When it was last changed",
    # Parts of a list
    "items": "What this page contains",
}
