"""/console/batches/new: create a batch with codes from a file, with generated ones, or without any."""

from __future__ import annotations

from contextlib import suppress
from typing import Final
from uuid import uuid4

from starlette.datastructures import FormData
from starlette.responses import Response

from issuer.batches.batch import BatchNotFoundError, NewBatch
from issuer.batches.store import create_batch, find_batch
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
from issuer.http.console.batches.batch_form import read_batch, window_options
from issuer.http.console.batches.batch_screens import PATH
from issuer.http.console.console_visit import ConsoleVisit, open_console
from issuer.http.console.layout.client_field import offered_clients, read_client
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.layout.typed_form import TypedForm
from issuer.http.multipart_form import multipart_form
from issuer.http.operations import Operation, RequestContext
from issuer.http.pages.forms import FORM_TOKEN
from issuer.http.pages.zones import zone_of, zone_options
from issuer.ids import parse_uuid
from issuer.operators.role import Role

NEW_PATH: Final = PATH + "/new"
_NEW: Final = ConsolePage("batches/new.html")


async def get_new(context: RequestContext) -> Response:
    visit = await open_console(context, Role.OPERATOR)
    values = {"source": UPLOADED, "window": "30", "id": str(uuid4()), "zone": zone_of(context.request)}
    return await _form(visit, TypedForm(values))


async def post_new(context: RequestContext) -> Response:
    """Create the batch. Its id is in the form, so that a form that is sent twice creates one batch."""
    visit = await open_console(context, Role.OPERATOR)
    async with (
        context.services.slots.uploads.hold(visit.context.caller.tenant),
        multipart_form(context.request, **FORM_LIMITS) as form,
    ):
        texts = texts_of(form)
        visit.check_form(texts.get(FORM_TOKEN))
        typed = TypedForm(texts)
        response = await _create(visit, typed, form)
        return response or await _form(visit, typed, 422)


async def _create(visit: ConsoleVisit, typed: TypedForm, form: FormData) -> Response | None:
    """Return the answer to a form that is right; None: `typed` has what is wrong."""
    fields, source = read_batch(typed), typed.text("source")
    file = chosen_file(form, typed) if source == UPLOADED else None
    wanted = read_format(typed) if source == GENERATED else None
    client_id = await read_client(visit, typed, needed=source == GENERATED)
    if typed.errors:
        return None
    batch_id = parse_uuid(typed.text("id")) or uuid4()
    new = NewBatch(fields.name, fields.rules, fields.starts_at, fields.ends_at, batch_id)
    stores = visit.context.services.stores
    with suppress(BatchNotFoundError):
        batch = await find_batch(stores.postgres, batch_id, client_id=visit.client_id)
        return respond(visit, f"{PATH}/{batch_id}", f"{batch.name} was created before.")
    if file is not None:
        with refused_load(typed):
            return await load_file(visit, new, file, client_id)
        return None
    try:
        await create_batch(stores, new, client_id=client_id, actor=visit.actor)
    except QuotaExceededError as error:
        typed.refuse("name", str(error))
        return None
    if wanted is None or client_id is None:
        return respond(visit, f"{PATH}/{batch_id}", f"{new.name} is created. It has no codes yet.")
    job = await generate(visit, typed, batch_id, client_id, wanted)
    notice = " ".join(typed.errors.values()) if job is None else show_made(job)
    return respond(visit, f"{PATH}/{batch_id}", f"{new.name} is created. {notice}")


async def _form(visit: ConsoleVisit, typed: TypedForm, status: int = 200) -> Response:
    return _NEW.response(
        visit, status, form=typed, clients=await offered_clients(visit), zones=zone_options(typed.text("zone")),
        windows=window_options(typed.text("window")), path=NEW_PATH,
    )  # fmt: skip


OPERATIONS: Final = (
    Operation("GET", NEW_PATH, get_new, Access.PUBLIC, page=True),
    Operation("POST", NEW_PATH, post_new, Access.PUBLIC, page=True, upload=True, takes_slot=False),
)
