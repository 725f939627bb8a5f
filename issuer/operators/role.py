"""What a person may do in the console. Each role may do what the ones before it may."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """VIEWER: see. OPERATOR: also run campaigns, that is change batches, codes and points. ADMIN: also keys and people.

    Roles are compared by rank, not by spelling.
    """

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        return tuple(Role).index(self)

    def includes(self, other: Role) -> bool:
        """Return whether this role may do what `other` may."""
        return self.rank >= other.rank
