"""The routes of loyalty in the OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from issuer.http.openapi.parts import PAGED, body, ok, operation, path_parameter
from issuer.http.openapi.shapes import GIVEN_ID, INSTANT, NAME, Schema, ref

PROGRAM_PARAMETER: Final = path_parameter("program", {**NAME, "examples": ["Tea club"]})
MEMBER_PARAMETER: Final = path_parameter("member", GIVEN_ID)
_TILL: Final = "Requires the scope `redeem`."
_ANY: Final = "Requires the scope `redeem` or `admin`."
_TAG: Final = "loyalty"
PROGRAMS: Final = "/api/v1/loyalty/programs"
MEMBERS: Final = PROGRAMS + "/{program}/members"
MEMBER: Final = MEMBERS + "/{member}"
DRY_RUN: Final[Schema] = {
    "name": "dry_run",
    "in": "query",
    "description": "true: nothing is changed; the answer is what the request would get, with the header Dry-Run",
    "schema": {"type": "boolean", "default": False},
}


def _query(name: str, description: str) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", "minLength": 1}}


_SEARCH: Final = [
    _query("email", "The address, in whatever case"),
    _query("phone", "The number, with the code of its country"),
    _query("card", "The number of a card"),
    _query("ref", "The caller's own id of the member"),
    _query("q", "How words of the name, the address or the ref begin"),
]


def _created(name: str, schema: str) -> Schema:
    location = {"Location": {"schema": {"type": "string", "format": "uri-reference"}}}
    return ok(f"The {name}", ref(schema), headers=location)


def _write(
    summary: str, name: str, answers: dict[int, Schema], *errors: int, needs_body: bool = True, **more: Any
) -> Schema:
    """Return an operation that may be tried only. `name`: of the schema of its body; empty: it has none."""
    if name:
        more["requestBody"] = {**body(name), "required": needs_body}
    return operation(_TAG, summary, answers, *errors, parameters=[DRY_RUN], **more)


def _posted(summary: str, name: str, operation_id: str, description: str, *, status: int = 201, **more: Any) -> Schema:
    """Return an operation on points. An order that is known is answered 200 with its first entry."""
    answers = {status: ok("The entry and the balance", ref(more.pop("answer", "Posted")))}
    if operation_id == "earnPoints":
        answers[200] = ok("The order was known: its first entry", ref("Posted"))
    return _write(
        summary, name, answers, 403, 404, 409, 410, 422, operationId=operation_id, description=description, **more
    )


def loyalty_paths() -> dict[str, Schema]:
    """Return the paths below /api/v1/loyalty/."""
    return {**_program_paths(), **_member_paths(), **_points_paths()}


def _program_paths() -> dict[str, Schema]:
    program = ok("The program", ref("Program"))
    return {
        PROGRAMS: {
            "get": operation(
                _TAG, "List programs", {200: ok("A page, oldest first", ref("ProgramPage"))},
                operationId="listPrograms", parameters=PAGED,
                description="A key that is bound to a client sees those of the client. " + _ANY,
            ),
            "post": _write(
                "Create a program", "NewProgram", {201: _created("program", "Program")}, 404, 409,
                operationId="createProgram",
                description="Without a client it is that of the key, or the default client. Terms that contradict "
                "each other are a 400 `invalid_terms`, whose `error` says which.",
            ),
        },
        PROGRAMS + "/{program}/stats": {
            "parameters": [PROGRAM_PARAMETER],
            "get": operation(
                _TAG, "Show the figures of a program", {200: ok("The figures", ref("ProgramStats"))}, 404, 409,
                operationId="programStats",
                parameters=[
                    {**_query("from", "Start of the period; default: 30 days before its end"), "schema": INSTANT},
                    {**_query("to", "End of the period; default: now. At most 366 days"), "schema": INSTANT},
                ],
                description="Points by day in the program's time zone, what is outstanding by month of expiry, debts, "
                "and the rewards that are taken most.",
            ),
        },
        PROGRAMS + "/{program}": {
            "parameters": [PROGRAM_PARAMETER],
            "get": operation(
                _TAG, "Show a program", {200: program}, 404, 409, operationId="showProgram", description=_ANY,
            ),
            "patch": _write(
                "Change a program", "ProgramChange", {200: program}, 404, 409, operationId="changeProgram",
                description="Other terms are a new version; points that were granted keep their expiry.",
            ),
        },
    }  # fmt: skip


def _member_paths() -> dict[str, Schema]:
    member = ok("The member with its balance", ref("Member"))
    return {
        MEMBERS: {
            "parameters": [PROGRAM_PARAMETER],
            "get": operation(
                _TAG, "List or find members", {200: ok("A page", ref("MemberPage"))}, 404, 409,
                operationId="listMembers", parameters=[*_SEARCH, *PAGED],
                description="In the order in which they joined. Everything that is given has to match. " + _ANY,
            ),
            "post": _write(
                "Create a member", "NewMember", {201: _created("member", "Member")}, 404, 409,
                operationId="createMember",
                description="At least one of ref, email, phone and name; or `member`, who is one of the client "
                "already and joins this program. " + _ANY,
            ),
        },
        MEMBER + "/export": {
            "parameters": [PROGRAM_PARAMETER, MEMBER_PARAMETER],
            "get": operation(
                _TAG, "Export a member", {200: ok("What is stored", ref("PersonExport"))}, 404, 409,
                operationId="exportMember",
                description="Everything there is about a person, in all programs of the client, by table.",
            ),
        },
        MEMBER: {
            "parameters": [PROGRAM_PARAMETER, MEMBER_PARAMETER],
            "get": operation(
                _TAG, "Show a member", {200: member}, 404, 409, operationId="showMember",
                description="A member that was merged into another one is shown as that one. " + _ANY,
            ),
            "patch": _write(
                "Change a member", "MemberChange", {200: member}, 404, 409, operationId="changeMember",
                description="null removes a value. " + _ANY,
            ),
            "delete": _write(
                "Erase a member", "", {200: ok("What is left", ref("ErasedMember"))}, 404, 409,
                operationId="eraseMember",
                description="Removes personal data and cards in all programs of the client. Accounts and their "
                "entries stay.",
            ),
        },
    }  # fmt: skip


def _points_paths() -> dict[str, Schema]:
    entry = {
        "name": "entry", "in": "path", "required": True, "description": "Id of an entry of the member",
        "schema": {"type": "string", "examples": ["12-3"]},
    }  # fmt: skip
    of_member = [PROGRAM_PARAMETER, MEMBER_PARAMETER]
    of_hold = [*of_member, path_parameter("hold_id")]
    refund = "Refunds of an order are cumulative: ten of 1 take as much as one of 10. What is spent already is a debt, "
    refund += "or written off, as the terms say. "
    return {
        MEMBER + "/entries": {
            "parameters": of_member,
            "get": operation(
                _TAG, "List the entries of a member", {200: ok("A page, newest first", ref("PointsEntryPage"))}, 404,
                409, operationId="listEntries", parameters=PAGED,
                description="Behind them those of members that were merged into it. " + _ANY,
            ),
        },
        MEMBER + "/earn": {
            "parameters": of_member,
            "post": _posted(
                "Earn points", "Earn", "earnPoints",
                "`points`, or what an order earns: `amount` and `order_id`. An order earns once, without a limit of "
                "time; with another amount it is a 409 `order_differs`. " + _TILL,
            ),
        },
        MEMBER + "/spend": {
            "parameters": of_member,
            "post": _posted("Spend points", "Spend", "spendPoints", "All of them or none, the soonest expiry first. "
                            "A 403 `insufficient_points` has `available`, `required` and `debt`. " + _TILL),
        },
        MEMBER + "/adjust": {
            "parameters": of_member,
            "post": _posted("Adjust points", "Adjustment", "adjustPoints",
                            "Adds points, or takes them; the entry has the reason."),
        },
        MEMBER + "/holds": {
            "parameters": of_member,
            "post": _posted("Hold points", "NewHold", "holdPoints",
                            "Reserves points until they are captured, released, or the hold expires. " + _TILL,
                            answer="PostedHold"),
        },
        MEMBER + "/holds/{hold_id}/capture": {
            "parameters": of_hold,
            "post": _posted("Capture a hold", "Capture", "captureHold", "Once. What is not captured is released. "
                            + _TILL, status=200, needs_body=False),
        },
        MEMBER + "/holds/{hold_id}/release": {
            "parameters": of_hold,
            "post": _posted("Release a hold", "", "releaseHold", "Once. Its points keep their expiry. " + _TILL,
                            status=200),
        },
        MEMBER + "/entries/{entry}/reverse": {
            "parameters": [*of_member, entry],
            "post": _posted("Reverse an entry", "EntryReversal", "reverseEntry",
                            "The earn of an order by `amount_refunded`, a spend by `points`; the rest without both. "
                            + refund + _TILL, needs_body=False),
        },
        PROGRAMS + "/{program}/refunds": {
            "parameters": [PROGRAM_PARAMETER],
            "post": _posted("Refund an order", "Refund", "refundOrder", refund + _TILL),
        },
    }  # fmt: skip
