"""/console/batches/{batch_id}/…: change a batch, pause and end it, add codes to it."""

from __future__ import annotations

from typing import Final
from uuid import uuid4

from starlette.datastructures import FormData
from starlette.responses import Response

from issuer.batches.batch import Batch, BatchChanges, BatchEndedError, BatchSharedError
from issuer.batches.store import change_batch, check_sole_owner
from issuer.clients.quotas import QuotaExceededError
from issuer.http.auth import Access
from issuer.http.console.batches.added_codes import (
    FORM_LIMITS,
    GENERATED,
    UPLOADED,
    chosen_file,
    generate,
    load_file,
    read_format,
    refused_load,
    respond,
    show_made,
    texts_of,
)
from issuer.http.console.batches.batch_form import fields_of, read_batch, window_options
from issuer.http.console.batches.batch_screens import PATH, open_batch
from issuer.http.console.console_visit import ConsoleVisit
from issuer.http.console.layout.client_field import offered_clients, read_client
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.layout.rules_in_words import show_limit
from issuer.http.console.layout.typed_form import TypedForm
from issuer.http.multipart_form import multipart_form
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.forms import FORM_TOKEN
from issuer.http.pages.zones import zone_of, zone_options
from issuer.ids import parse_uuid
from issuer.operators.role import Role

ONE: Final = PATH + "/{batch_id}"
_EDIT: Final = ConsolePage("batches/edit.html")
_CODES: Final = ConsolePage("batches/codes.html")
_STATES: Final = {
    "pause": (BatchChanges(paused=True), "is paused. Requests are refused until you resume it."),
    "resume": (BatchChanges(paused=False), "is live again."),
    "end": (BatchChanges(expired=True), "has ended."),
}


async def _open(context: RequestContext) -> tuple[ConsoleVisit, Batch]:
    return await open_batch(context, Role.OPERATOR)


async def get_edit(context: RequestContext) -> Response:
    visit, batch = await _open(context)
    return _edit_form(visit, batch, TypedForm.showing(fields_of(batch, zone_of(context.request))))


async def post_edit(context: RequestContext) -> Response:
    visit, batch = await _open(context)
    typed = TypedForm(await visit.form())
    fields = read_batch(typed, batch)
    if not typed.errors:
        changes = BatchChanges(fields.name, fields.rules, fields.starts_at, fields.ends_at)
        try:
            await _change(visit, batch, changes)
        except (BatchEndedError, BatchSharedError) as error:
            typed.refuse("name", str(error))
        except QuotaExceededError as error:
            typed.refuse("ends", str(error))
        else:
            return visit.redirect(f"{PATH}/{batch.id}", "Saved. The change is in effect.")
    return _edit_form(visit, batch, typed, 422)


async def post_state(context: RequestContext) -> Response:
    """Pause, resume or end a batch."""
    visit, batch = await _open(context)
    known = _STATES.get((await visit.form()).get("state", ""))
    if known is None:
        return visit.redirect(f"{PATH}/{batch.id}")
    changes, said = known
    await _change(visit, batch, changes)
    return visit.redirect(f"{PATH}/{batch.id}", f"{batch.name} {said}")


async def _change(visit: ConsoleVisit, batch: Batch, changes: BatchChanges) -> None:
    stores = visit.context.services.stores
    await change_batch(stores, batch.id, changes, client_id=visit.client_id, actor=visit.actor)


def _edit_form(visit: ConsoleVisit, batch: Batch, typed: TypedForm, status: int = 200) -> Response:
    return _EDIT.response(
        visit, status, batch=batch, form=typed, path=f"{PATH}/{batch.id}", zones=zone_options(typed.text("zone")),
        windows=window_options(typed.text("window")), limits=[show_limit(limit) for limit in batch.rules.limits],
    )  # fmt: skip


async def get_codes(context: RequestContext) -> Response:
    visit, batch = await _open(context)
    return await _codes_form(visit, batch, TypedForm({"source": UPLOADED, "job": str(uuid4())}))


async def post_codes(context: RequestContext) -> Response:
    """Add codes to a batch from a file, or generate some."""
    visit, batch = await _open(context)
    async with (
        context.services.slots.uploads.hold(visit.context.caller.tenant),
        multipart_form(context.request, **FORM_LIMITS) as form,
    ):
        texts = texts_of(form)
        visit.check_form(texts.get(FORM_TOKEN))
        if visit.client_id is not None:
            # A batch has a code once: the report would say which codes the others have.
            await check_sole_owner(context.services.stores.postgres, batch.id, visit.client_id)
        typed = TypedForm(texts)
        response = await _add(visit, batch, typed, form)
        return response or await _codes_form(visit, batch, typed, 422)


async def _add(visit: ConsoleVisit, batch: Batch, typed: TypedForm, form: FormData) -> Response | None:
    generates = typed.text("source") == GENERATED
    file = None if generates else chosen_file(form, typed)
    wanted = read_format(typed) if generates else None
    client_id = await read_client(visit, typed, needed=generates, batch_id=batch.id if generates else None)
    if typed.errors:
        return None
    if file is not None:
        with refused_load(typed):
            return await load_file(visit, batch, file, client_id)
    if wanted is not None and client_id is not None:
        job = await generate(visit, typed, batch.id, client_id, wanted, parse_uuid(typed.text("job")))
        if job is not None:
            return respond(visit, f"{PATH}/{batch.id}", show_made(job))
    return None


async def _codes_form(visit: ConsoleVisit, batch: Batch, typed: TypedForm, status: int = 200) -> Response:
    return _CODES.response(
        visit, status, batch=batch, form=typed, clients=await offered_clients(visit), path=f"{PATH}/{batch.id}"
    )


OPERATIONS: Final = (
    Operation("GET", ONE + "/edit", get_edit, Access.PUBLIC, page=True),
    Operation("POST", ONE + "/edit", post_edit, Access.PUBLIC, page=True),
    Operation("POST", ONE + "/state", post_state, Access.PUBLIC, page=True),
    Operation("GET", ONE + "/codes", get_codes, Access.PUBLIC, page=True),
    Operation("POST", ONE + "/codes", post_codes, Access.PUBLIC, page=True, upload=True, takes_slot=False),
)
