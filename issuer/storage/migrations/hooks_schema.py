"""Hooks in the schema: the endpoints to which shops send orders, what has arrived, and which refunds have counted."""

from typing import Final

HOOKS: Final = """
CREATE TABLE hook_endpoints (
    id              uuid PRIMARY KEY,
    client_id       uuid NOT NULL,
    program_id      uuid NOT NULL REFERENCES loyalty_programs,
    kind            text NOT NULL CHECK (kind IN ('shopify', 'woocommerce', 'square', 'standard')),
    -- Of the orders that arrive here: an order of a source earns once, whatever endpoint it comes through.
    source          text COLLATE "C" NOT NULL CHECK (source <> ''),
    -- Square signs it with the body.
    notification_url text CHECK ((notification_url IS NOT NULL) = (kind = 'square')),
    -- Whether orders of people who are no members are kept until they join.
    keeps_unknown   boolean NOT NULL DEFAULT false,
    created_at      instant NOT NULL DEFAULT now(),
    -- The secret before the last rotation is valid until then. Secrets are in stored_secrets.
    previous_until  instant,
    revoked_at      instant
);
COMMENT ON TABLE hook_endpoints IS 'Endpoints to which shops send orders. One is revoked, never deleted.';
CREATE UNIQUE INDEX hook_endpoints_by_source ON hook_endpoints (program_id, source) WHERE revoked_at IS NULL;

CREATE TABLE hook_inbox (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    endpoint_id     uuid NOT NULL REFERENCES hook_endpoints,
    delivery_id     text COLLATE "C" NOT NULL,
    topic           text NOT NULL,
    -- The shop's id of this delivery, where another one identifies what it says.
    message_id      text,
    received_at     instant NOT NULL DEFAULT clock_timestamp(),
    state           text NOT NULL CHECK (state IN
        ('received', 'waits_for_order', 'waits_for_member', 'asks', 'done', 'ignored', 'refused')),
    -- What has become of it, for people. No personal data.
    note            text NOT NULL DEFAULT '',
    order_id        text COLLATE "C",
    -- What it says, as far as it is needed: personal data until it is processed, none afterwards.
    body            jsonb,
    -- Hashes of what names the customer: a member who joins or is erased finds their deliveries.
    customer_keys   bytea[] NOT NULL DEFAULT '{}',
    member_id       uuid,
    settled_at      instant,
    UNIQUE (endpoint_id, delivery_id)
);
COMMENT ON TABLE hook_inbox IS 'Verified deliveries of shops, each once, until they have been processed and expired.';
CREATE INDEX hook_inbox_received ON hook_inbox (id) WHERE state = 'received';
CREATE INDEX hook_inbox_by_order ON hook_inbox (endpoint_id, order_id) WHERE state = 'waits_for_order';
CREATE INDEX hook_inbox_by_customer ON hook_inbox USING gin (customer_keys);
CREATE INDEX hook_inbox_by_time ON hook_inbox (received_at);

CREATE TABLE hook_refunds (
    program_id      uuid NOT NULL,
    source          text COLLATE "C" NOT NULL,
    order_id        text COLLATE "C" NOT NULL,
    refund_id       text COLLATE "C" NOT NULL,
    PRIMARY KEY (program_id, source, order_id, refund_id)
);
COMMENT ON TABLE hook_refunds IS 'Refunds that have taken points back: each counts once, without a limit of time.';

CREATE TABLE hook_taxed_orders (
    program_id      uuid NOT NULL,
    source          text COLLATE "C" NOT NULL,
    order_id        text COLLATE "C" NOT NULL,
    PRIMARY KEY (program_id, source, order_id)
);
COMMENT ON TABLE hook_taxed_orders IS 'Orders whose prices include tax, so that those of their refunds do, too.'
"""
