"""The places of the console, in groups: each screen group has one entry here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from issuer.http.console.layout.visitor import Visitor
from issuer.operators.role import Role


@dataclass(frozen=True, slots=True)
class Place:
    """One entry. `role`: who sees it at the least; `installation`: only those who are bound to no client."""

    title: str
    path: str
    role: Role = Role.VIEWER
    installation: bool = False

    def is_open_to(self, visit: Visitor) -> bool:
        return visit.role.includes(self.role) and not (self.installation and visit.client is not None)


@dataclass(frozen=True, slots=True)
class PlaceGroup:
    """Entries under a title; empty: without one."""

    title: str
    places: Sequence[Place]


NAVIGATION: Final[tuple[PlaceGroup, ...]] = (
    PlaceGroup("", (Place("Now", "/console/now", installation=True), Place("Find", "/console/find"))),
    PlaceGroup(
        "Codes",
        (
            Place("Batches", "/console/batches"),
            Place("Campaigns", "/console/campaigns"),
            Place("Coupons", "/console/coupons"),
        ),
    ),
    PlaceGroup("Loyalty", (Place("Programs", "/console/loyalty"),)),
    PlaceGroup(
        "Operation",
        (
            Place("Incidents", "/console/incidents", installation=True),
            Place("Ledger", "/console/ledger", installation=True),
        ),
    ),
    PlaceGroup(
        "Access",
        (
            Place("Clients", "/console/clients"),
            Place("API keys", "/console/keys", Role.ADMIN, installation=True),
            Place("Operators", "/console/operators", Role.ADMIN, installation=True),
            Place("Audit", "/console/audit", Role.ADMIN, installation=True),
            Place("Settings", "/console/settings", Role.ADMIN, installation=True),
        ),
    ),
)
"""All entries, in the order in which they are shown. A group without an entry is not shown."""


def navigation_for(visit: Visitor) -> list[PlaceGroup]:
    """Return what this visitor may open."""
    groups = (
        PlaceGroup(group.title, [place for place in group.places if place.is_open_to(visit)]) for group in NAVIGATION
    )
    return [group for group in groups if group.places]


def current_path(path: str) -> str:
    """Return the path of the entry under which a screen is: the longest that its own path begins with."""
    paths = [place.path for group in NAVIGATION for place in group.places]
    return max((one for one in paths if path == one or path.startswith(f"{one}/")), key=len, default="")
