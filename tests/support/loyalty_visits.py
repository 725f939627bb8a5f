"""The routes of loyalty with requests for objects of another client, and the programs in which they are sent."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from issuer.http.loyalty.requests import MEMBER_PATH, MEMBERS_PATH, PROGRAM_PATH, PROGRAMS_PATH
from issuer.loyalty.member_store import create_member
from issuer.loyalty.program_store import create_program
from issuer.loyalty.terms import parse_terms
from issuer.reports.formats import Format
from tests.support.api import Api
from tests.support.visits import OWN, REFUSED, SILENT, Visit

PROGRAM_NAME: Final = "Their points"
MEMBER_REF: Final = "THEIRS-ANNA"
_TERMS: Final = {"earn": {"points": 1, "per": "1.00", "currency": "EUR"}}
_PROGRAM: Final = PROGRAMS_PATH + "/{program}"
_MEMBER: Final = _PROGRAM + "/members/{member}"


async def make_programs(api: Api, owner: UUID, caller: UUID) -> dict[str, str]:
    """Create a program of each client, and a member of the owner's. Return the ids for the world."""
    postgres, terms = api.services.stores.postgres, parse_terms(_TERMS, "points")
    theirs = await create_program(postgres, owner, PROGRAM_NAME, terms, actor="test")
    mine = await create_program(postgres, caller, "Own points", terms, actor="test")
    member = {"ref": MEMBER_REF, "email": "THEIRS-anna@example.org", "phone": "+442079460958", "name": "THEIRS-Anna"}
    found = await create_member(postgres, theirs, member, actor="test")
    return {"program": str(theirs.id), "own_program": str(mine.id), "member": str(found.member.id)}


def of_member(path: str, **body: Any) -> list[Visit]:
    """Return the request for the member of the other client."""
    return [Visit(REFUSED, _MEMBER + path.removeprefix(MEMBER_PATH), json=body or None)]


def points_reports(name: str) -> list[Visit]:
    """Return the visits of a report of loyalty."""
    path = f"/api/v1/reports/{name}"
    refused = [Visit(REFUSED, path, {"program": "{program}"}), Visit(REFUSED, path, {"client_id": "{owner}"})]
    return [*refused, *(Visit(SILENT, path, {"format": str(format_)}) for format_ in Format)]


LOYALTY_VISITS: Final[dict[tuple[str, str], list[Visit]]] = {
    ("GET", PROGRAMS_PATH): [Visit(SILENT, PROGRAMS_PATH)],
    ("POST", PROGRAMS_PATH): [
        Visit(REFUSED, PROGRAMS_PATH, json={"name": "New", "client": "{owner}"}),
        Visit(OWN, PROGRAMS_PATH, json={"name": "Newest", "client": "{caller}"}),
    ],
    ("GET", PROGRAM_PATH): [Visit(REFUSED, _PROGRAM), Visit(REFUSED, f"{PROGRAMS_PATH}/{PROGRAM_NAME}")],
    ("PATCH", PROGRAM_PATH): [Visit(REFUSED, _PROGRAM, json={"name": PROGRAM_NAME, "terms": {"pending_days": 0}})],
    ("GET", MEMBERS_PATH): [Visit(REFUSED, _PROGRAM + "/members", {"q": "anna"})],
    ("POST", MEMBERS_PATH): [
        Visit(REFUSED, _PROGRAM + "/members", json=body) for body in ({"name": "Berta"}, {"member": "{member}"})
    ],
    ("GET", MEMBER_PATH): of_member(MEMBER_PATH),
    ("PATCH", MEMBER_PATH): of_member(MEMBER_PATH, marketing=True),
    ("GET", MEMBER_PATH + "/export"): of_member(MEMBER_PATH + "/export"),
    ("GET", PROGRAM_PATH + "/stats"): [Visit(REFUSED, _PROGRAM + "/stats")],
    **{("GET", f"/api/v1/reports/{name}"): points_reports(name) for name in ("points", "members")},
    # Last: nothing is left of the member.
    ("DELETE", MEMBER_PATH): of_member(MEMBER_PATH),
}
