"""Loyalty in the schema: its chapters, in the order in which they are created."""

from typing import Final

from issuer.storage.migrations import (
    cards_schema,
    hooks_schema,
    loyalty_schema,
    members_schema,
    rewards_schema,
    sessions_schema,
    staff_schema,
)

CHAPTERS: Final = (
    members_schema.MEMBERS,
    loyalty_schema.LOYALTY,
    rewards_schema.REWARDS,
    rewards_schema.PURCHASES,
    staff_schema.STAFF,
    sessions_schema.SESSIONS,
    cards_schema.CARDS,
    hooks_schema.HOOKS,
)
