"""/api/v1/loyalty/programs: create, list, show and change programs and their terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from issuer.http.auth import Access
from issuer.http.fields import PAGED, json_object, json_response, name_field, page_query, page_response
from issuer.http.loyalty.requests import PROGRAM_PATH, PROGRAMS_PATH, program_of
from issuer.http.naming import CLIENT_FIELDS, owner_of_codes, text_field
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import invalid
from issuer.loyalty.program import Program, ProgramState, parse_unit
from issuer.loyalty.program_store import change_program, create_program, list_programs
from issuer.loyalty.terms import POINTS, Terms, parse_terms

_NEW: Final = (*CLIENT_FIELDS, "name", "unit", "timezone", "terms")
_CHANGE: Final = ("name", "timezone", "state", "terms")
DEFAULT_TIMEZONE: Final = "UTC"


async def get_programs(context: RequestContext) -> Response:
    """Return a page of programs, oldest first; a bound key sees those of its client."""
    limit, cursor = page_query(context.request)
    page = await list_programs(
        context.services.stores.postgres, client_id=context.caller.client_id, limit=limit, cursor=cursor
    )
    return page_response(page, Program.to_json)


async def post_program(context: RequestContext) -> Response:
    values = await json_object(context.request, _NEW)
    client_id = await owner_of_codes(context, values)
    if client_id is None:
        raise invalid("client is required where the api key is bound to no client")
    unit, timezone = text_field(values, "unit"), text_field(values, "timezone")
    unit = POINTS if unit is None else parse_unit(unit)
    terms = parse_terms({} if values.get("terms") is None else values["terms"], unit)

    async def show(program: Program) -> Response:
        response = json_response(program.to_json(), 201)
        response.headers["location"] = f"{PROGRAMS_PATH}/{program.id}"
        return response

    act = context.act(show)
    await create_program(
        context.services.stores.postgres,
        client_id,
        name_field(values),
        terms,
        unit=unit,
        timezone=DEFAULT_TIMEZONE if timezone is None else timezone,
        actor=context.caller.actor,
        act=act,
    )
    return act.response


async def get_program(context: RequestContext) -> Response:
    return json_response((await program_of(context)).to_json())


async def patch_program(context: RequestContext) -> Response:
    """Change a program. Fields of the terms that are absent stay; other terms are a new version."""
    program = await program_of(context)
    values = await json_object(context.request, _CHANGE)

    async def show(changed: Program) -> Response:
        return json_response(changed.to_json())

    act = context.act(show)
    await change_program(
        context.services.stores.postgres,
        program,
        name=name_field(values) if "name" in values else None,
        timezone=text_field(values, "timezone"),
        state=_state(values),
        terms=_terms(values, program),
        actor=context.caller.actor,
        act=act,
    )
    return act.response


def _state(values: Mapping[str, Any]) -> ProgramState | None:
    state = text_field(values, "state")
    if state is not None and state not in [*ProgramState]:
        raise invalid(f"state must be one of {', '.join(ProgramState)}")
    return None if state is None else ProgramState(state)


def _terms(values: Mapping[str, Any], program: Program) -> Terms | None:
    given = values.get("terms")
    if given is None:
        return None
    # What is no object is refused below.
    merged = {**program.terms.to_json(), **given} if isinstance(given, dict) else given
    return parse_terms(merged, program.unit)


OPERATIONS: Final = (
    Operation("GET", PROGRAMS_PATH, get_programs, Access.ANY_KEY, query=PAGED),
    Operation("POST", PROGRAMS_PATH, post_program, tries=True),
    Operation("GET", PROGRAM_PATH, get_program, Access.ANY_KEY),
    Operation("PATCH", PROGRAM_PATH, patch_program, tries=True),
)
