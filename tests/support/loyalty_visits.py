"""The routes of loyalty with requests for objects of another client, and the programs in which they are sent."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID, uuid4

from issuer.http.edge.limits import DELIVERY_PATH
from issuer.http.loyalty.cards import CARD_PATH, CARDS_PATH
from issuer.http.loyalty.entries import ENTRIES_PATH
from issuer.http.loyalty.holds import HOLD_PATH, HOLDS_PATH
from issuer.http.loyalty.hooks import HOOK_PATH, HOOKS_PATH
from issuer.http.loyalty.merges import MERGE_PATH
from issuer.http.loyalty.purchases import PURCHASES_PATH
from issuer.http.loyalty.requests import MEMBER_PATH, MEMBERS_PATH, PROGRAM_PATH, PROGRAMS_PATH
from issuer.http.loyalty.reversals import REFUNDS_PATH, REVERSE_PATH
from issuer.http.loyalty.rewards import REWARD_PATH, REWARDS_PATH
from issuer.http.loyalty.transfers import TRANSFERS_PATH
from issuer.instants import LAST
from issuer.loyalty.cards import issue_cards
from issuer.loyalty.member_store import create_member
from issuer.loyalty.operations import Adjust, Earn, OrderRef, PlaceHold, Spend
from issuer.loyalty.outcome import Applied
from issuer.loyalty.program_store import create_program
from issuer.loyalty.reward import NewReward
from issuer.loyalty.rewards import create_reward
from issuer.loyalty.terms import parse_terms
from issuer.reports.formats import Format
from tests.support.api import Api
from tests.support.visits import OWN, REFUSED, SILENT, Visit

PROGRAM_NAME: Final = "Their points"
MEMBER_REF: Final = "THEIRS-ANNA"
OTHER_REF: Final = "THEIRS-BERTA"
MEMBER_EMAIL: Final = "THEIRS-anna@example.org"
_TERMS: Final = {"earn": {"points": 1, "per": "1.00", "currency": "EUR"}}
_HOOK: Final = """
INSERT INTO hook_endpoints (id, client_id, program_id, kind, source)
VALUES (gen_random_uuid(), $2, $1, 'standard', 'THEIRS-shop') RETURNING id"""
_PROGRAM: Final = PROGRAMS_PATH + "/{program}"
_MEMBER: Final = _PROGRAM + "/members/{member}"


async def make_programs(api: Api, owner: UUID, caller: UUID, batch: UUID) -> dict[str, str]:
    """Create a program of each client, members and a reward of the owner's (codes: `batch`). Return their ids."""
    postgres, terms = api.services.stores.postgres, parse_terms(_TERMS, "points")
    theirs = await create_program(postgres, owner, PROGRAM_NAME, terms, actor="test")
    mine = await create_program(postgres, caller, "Own points", terms, actor="test")
    member = {"ref": MEMBER_REF, "email": MEMBER_EMAIL, "phone": "+442079460958", "name": "THEIRS-Anna"}
    found = await create_member(postgres, theirs, member, actor="test")
    hook = await api.owner.fetchval(_HOOK, theirs.id, owner)
    execute, hold, released = api.services.loyalty.execute, uuid4(), uuid4()
    await execute(found.account_id, Adjust(10_000, "test"))
    order = OrderRef("shop", "THEIRS-ORDER", 100_000)
    for operation in (Earn(order=order), Spend(100), PlaceHold(hold, 100, LAST), PlaceHold(released, 100, LAST)):
        assert isinstance(await execute(found.account_id, operation), Applied)
    await create_member(postgres, theirs, {"ref": OTHER_REF}, actor="test")
    reward = await create_reward(postgres, theirs.id, NewReward("THEIRS-mug", 5, batch), actor="test")
    spent = await execute(found.account_id, Spend(10))
    assert isinstance(spent, Applied)
    assert spent.entry is not None
    (card,) = await issue_cards(postgres, theirs, 1, account_id=found.account_id, actor="test")
    (blank,) = await issue_cards(postgres, theirs, 1, actor="test")
    return {
        "hook": str(hook),
        "program": str(theirs.id), "own_program": str(mine.id), "member": str(found.member.id),
        "entry": f"{found.account_id}-3", "hold": str(hold), "released": str(released), "reward": str(reward.id),
        "card": card.number, "blank_card": blank.number, "card_entry": f"{found.account_id}-{spent.entry.seq}",
    }  # fmt: skip


def of_member(path: str, **body: Any) -> list[Visit]:
    """Return the request for the member of the other client."""
    return [Visit(REFUSED, _MEMBER + path.removeprefix(MEMBER_PATH), json=body or None)]


def of_hook(path: str = "") -> list[Visit]:
    """Return the request for the hook of the other client."""
    return [Visit(REFUSED, _PROGRAM + "/hooks/{hook}" + path)]


def of_card(path: str, **body: Any) -> list[Visit]:
    """Return the request for the card of that member."""
    return [Visit(REFUSED, _PROGRAM + "/cards/{card}" + path, json=body or None)]


def points_reports(name: str) -> list[Visit]:
    """Return the visits of a report of loyalty."""
    path = f"/api/v1/reports/{name}"
    refused = [Visit(REFUSED, path, {"program": "{program}"}), Visit(REFUSED, path, {"client_id": "{owner}"})]
    return [*refused, *(Visit(SILENT, path, {"format": str(format_)}) for format_ in Format)]


_ACCOUNT: Final = "/api/v1/account"
_NAMED: Final = {"email": MEMBER_EMAIL}


def _form(name: str, **fields: str) -> dict[tuple[str, str], list[Visit]]:
    path = f"{_ACCOUNT}/form/{name}"
    return {("POST", path): [Visit(REFUSED, path, form=_NAMED | fields)]}


# The settings of the tests name the program of the other client.
FEALTY_VISITS: Final[dict[tuple[str, str], list[Visit]]] = {
    ("GET", "/api/v1/accounts/get"): [Visit(REFUSED, "/api/v1/accounts/get")],
    ("GET", "/api/v1/accounts/admin"): [Visit(REFUSED, "/api/v1/accounts/admin")],
    ("GET", _ACCOUNT): [Visit(REFUSED, _ACCOUNT, json=_NAMED)],
    ("POST", _ACCOUNT): [Visit(REFUSED, _ACCOUNT, json={"email": "berta@example.org"})],
    ("PUT", _ACCOUNT): [Visit(REFUSED, _ACCOUNT, json=_NAMED | {"rewardpoints": 10_000, "marketing": True})],
    **_form("search"),
    **_form("create", email="carla@example.org", points="5"),
    **_form("update", points="9000"),
    **_form("delete", email="carla@example.org"),
    # No member but one that a request above has created: later ones are about the other.
    ("DELETE", _ACCOUNT): [Visit(REFUSED, _ACCOUNT, json={"email": "berta@example.org"})],
}

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
    ("GET", ENTRIES_PATH): of_member(ENTRIES_PATH),
    ("POST", MEMBER_PATH + "/earn"): [
        *of_member(MEMBER_PATH + "/earn", points=5),
        *of_member(MEMBER_PATH + "/earn", amount="5.00", order_id="THEIRS-NEW"),
    ],
    ("POST", MEMBER_PATH + "/spend"): of_member(MEMBER_PATH + "/spend", points=5),
    ("POST", MEMBER_PATH + "/adjust"): of_member(MEMBER_PATH + "/adjust", points=5, reason="test"),
    ("POST", HOLDS_PATH): of_member(HOLDS_PATH, points=5),
    ("POST", HOLD_PATH + "/capture"): [Visit(REFUSED, _MEMBER + "/holds/{hold}/capture", json={"points": 50})],
    ("POST", HOLD_PATH + "/release"): [Visit(REFUSED, _MEMBER + "/holds/{released}/release")],
    ("POST", REVERSE_PATH): [Visit(REFUSED, _MEMBER + "/entries/{entry}/reverse", json={"points": 5})],
    ("POST", REFUNDS_PATH): [
        Visit(
            REFUSED, _PROGRAM + "/refunds", json={"source": "shop", "order_id": "THEIRS-ORDER", "amount_refunded": "1"}
        ),
    ],
    ("GET", HOOKS_PATH): [Visit(REFUSED, _PROGRAM + "/hooks")],
    ("POST", HOOKS_PATH): [Visit(REFUSED, _PROGRAM + "/hooks", json={"kind": "standard"})],
    ("GET", HOOK_PATH): of_hook(),
    ("POST", HOOK_PATH + "/rotate"): [Visit(REFUSED, _PROGRAM + "/hooks/{hook}/rotate", json={})],
    ("GET", HOOK_PATH + "/inbox"): of_hook("/inbox"),
    ("DELETE", HOOK_PATH): of_hook(),
    # Signed with the secret of the hook; without a signature it is refused with every key.
    ("POST", DELIVERY_PATH + "{endpoint}"): [],
    ("GET", REWARDS_PATH): [Visit(REFUSED, _PROGRAM + "/rewards")],
    ("POST", REWARDS_PATH): [
        Visit(REFUSED, _PROGRAM + "/rewards", json={"name": "A mug", "cost": 1, "batch_id": "{theirs}"})
    ],
    ("GET", REWARD_PATH): [Visit(REFUSED, _PROGRAM + "/rewards/{reward}")],
    ("PATCH", REWARD_PATH): [Visit(REFUSED, _PROGRAM + "/rewards/{reward}", json={"cost": 6})],
    ("GET", PURCHASES_PATH): of_member(PURCHASES_PATH),
    ("POST", PURCHASES_PATH): [
        Visit(REFUSED, _MEMBER + "/purchases", {"dry_run": "true"}, json={"reward": "{reward}"})
    ],
    ("POST", TRANSFERS_PATH): [
        Visit(REFUSED, _PROGRAM + "/transfers", json={"from": MEMBER_REF, "to": OTHER_REF, "points": 1})
    ],
    ("POST", MERGE_PATH): [Visit(REFUSED, f"{_PROGRAM}/members/{OTHER_REF}/merge", json={"into": "{member}"})],
    ("GET", CARDS_PATH): [Visit(REFUSED, _PROGRAM + "/cards")],
    ("POST", CARDS_PATH): [Visit(REFUSED, _PROGRAM + "/cards", json={"count": 1})],
    ("GET", CARDS_PATH + ".pdf"): [Visit(REFUSED, _PROGRAM + "/cards.pdf", {"number": "{card}"})],
    ("GET", CARD_PATH): of_card(""),
    ("POST", CARD_PATH + "/assign"): [
        Visit(REFUSED, _PROGRAM + "/cards/{blank_card}/assign", json={"member": "{member}"})
    ],
    ("POST", CARD_PATH + "/top-up"): of_card("/top-up", amount=5),
    ("POST", CARD_PATH + "/spend"): of_card("/spend", amount=1),
    ("POST", CARD_PATH + "/refund"): of_card("/refund", entry="{card_entry}"),
    ("GET", CARD_PATH + "/apple.pkpass"): of_card("/apple.pkpass"),
    ("GET", CARD_PATH + "/google"): of_card("/google"),
    # Last: nothing is left of the card and the member.
    ("POST", CARD_PATH + "/replace"): of_card("/replace"),
    ("POST", CARD_PATH + "/revoke"): of_card("/revoke"),
    ("DELETE", MEMBER_PATH): of_member(MEMBER_PATH),
}
