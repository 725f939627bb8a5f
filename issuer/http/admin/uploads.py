"""POST /api/v1/codes/upload: create a batch from a file of codes, unless its client has all of the codes already."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, BinaryIO, Final

import structlog
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from issuer.batches.batch import Batch, BatchNotFoundError, NewBatch
from issuer.batches.rules import NO_RULES, Rules, parse_rules_text
from issuer.batches.store import check_sole_owner
from issuer.http.edge.limits import UPLOAD_PATH
from issuer.http.fields import instant_field, json_response
from issuer.http.idempotency import request_digest
from issuer.http.loading import loading
from issuer.http.multipart_form import multipart_form
from issuer.http.naming import BATCH_FIELDS, CLIENT_FIELDS, named_batch, owner_of_codes
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.failures import SHOWN_ROWS
from issuer.http.problems.problem import ProblemError, invalid
from issuer.ids import parse_uuid
from issuer.instants import show_instant
from issuer.loading.columns import parse_attributes
from issuer.loading.errors import PreloadError
from issuer.loading.preload import READ_BYTES, preload_file
from issuer.loading.report import PreloadReport, UnfinishedLoadError
from issuer.names import name_problem, text_problem
from issuer.storage.acts import UNKEPT, Act

log = structlog.get_logger()

MAX_FIELDS: Final = 20
MAX_FIELD_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that passed every check that does not read the codes."""

    file: BinaryIO
    batch: Mapping[str, str]
    """The fields that name an existing batch; empty: it is a new one."""
    name: str | None
    rules: Rules | None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    client: Mapping[str, str] = field(default_factory=dict)
    """The fields that name the client of rows without one."""
    create_clients: bool = False
    sheet: str | None = None
    attributes: Sequence[str] = ()

    @property
    def fields(self) -> tuple[bytes, ...]:
        """What decides the result beside the file."""
        rules = (self.rules or NO_RULES).to_text()
        times = {"starts_at": self.starts_at, "ends_at": self.ends_at}
        given = {**self.batch, **self.client, **{name: show_instant(time) for name, time in times.items() if time}}
        named = (f"{name}={value}" for name, value in sorted(given.items()))
        parts = (self.name or "", rules, str(self.create_clients), self.sheet or "", ",".join(self.attributes), *named)
        return tuple(text.encode() for text in parts)


async def post_upload(context: RequestContext) -> Response:
    """Create a batch from the uploaded file, or add its codes to an existing one.

    The form is spooled to disk as it arrives and the codes are read from there, so memory use does not depend on them.
    """
    slots, caller = context.services.slots, context.caller
    limits = {"max_files": 1, "max_fields": MAX_FIELDS, "max_part_size": MAX_FIELD_BYTES}
    async with (
        slots.uploads.hold(caller.tenant),
        multipart_form(context.request, **limits) as form,
    ):
        upload = check_form(form)
        if context.idempotency.key is not None:
            # Not the digest of the body: the boundary between the parts is another one in every request.
            file = await asyncio.to_thread(digest_of_file, upload.file)
            context.idempotency.digest = request_digest(file, *upload.fields)
            await context.idempotency.check()
        batch = await find_existing(context, upload)
        act = context.act(show)
        # From here on nothing waits for the client.
        async with loading(context.services, caller.tenant):
            await load_upload(context, upload, batch, act)
    return act.response


def check_form(form: FormData) -> Upload:
    """Check the form before anything is created. Raises ProblemError or RulesError for the first fault found."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise invalid("No CSV file provided", "no_csv_file")
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    batch: dict[str, str] = {name: texts[name] for name in BATCH_FIELDS if name in texts}
    name = _name(form, is_needed=not batch)
    rules = form.get("rules", "")
    if not isinstance(rules, str):
        raise invalid("rules must be a JSON object", "invalid_rules")
    parsed = parse_rules_text(rules) if rules.strip() else None
    create_clients = form.get("create_clients", "false")
    if create_clients not in ("true", "false"):
        raise invalid("create_clients must be true or false")
    return Upload(
        file.file,
        batch,
        name,
        parsed,
        # An empty field of a form is one that was left out.
        instant_field({"starts_at": texts.get("starts_at") or None}, "starts_at"),
        instant_field({"ends_at": texts.get("ends_at") or None}, "ends_at"),
        {name: texts[name] for name in CLIENT_FIELDS if texts.get(name)},
        create_clients == "true",
        _sheet(form),
        _attributes(form),
    )


def _attributes(form: FormData) -> Sequence[str]:
    attributes = form.get("attributes", "")
    if not isinstance(attributes, str):
        raise invalid("attributes must be names of columns")
    try:
        return parse_attributes(attributes)
    except PreloadError as error:
        raise invalid(str(error)) from error


def _sheet(form: FormData) -> str | None:
    sheet = form.get("sheet", "")
    if not isinstance(sheet, str) or (sheet and text_problem(sheet) is not None):
        raise invalid("sheet must be the name of a sheet")
    return sheet or None


def _name(form: FormData, *, is_needed: bool) -> str | None:
    """Return the name of a new batch. Raises ProblemError."""
    name = form.get("batch_name")
    if not isinstance(name, str) or not name.strip():
        if is_needed:
            raise invalid("Batch name is required", "no_batch_name")
        return None
    problem = name_problem(name)
    if problem is not None:
        raise invalid(f"batch_{problem}")
    return name


async def find_existing(context: RequestContext, upload: Upload) -> Batch | NewBatch:
    """Return the batch that gets the codes: the one that the upload names, or else the values of a new one.

    Raises ProblemError for a name or rules that differ from those of the batch: adding codes changes nothing else.
    """
    new = NewBatch(upload.name or "", upload.rules or NO_RULES, upload.starts_at, upload.ends_at)
    if not upload.batch:
        return new
    try:
        batch = await named_batch(context, upload.batch, client_id=context.caller.client_id)
    except BatchNotFoundError:
        if upload.name is None or "batch_id" not in upload.batch:
            raise
        # Of another client, it is taken: then no batch is created.
        return replace(new, id=parse_uuid(upload.batch["batch_id"]))
    assert batch is not None
    if (client_id := context.caller.client_id) is not None:
        # A batch has a code once: the report would say which codes the others have.
        await check_sole_owner(context.services.stores.postgres, batch.id, client_id)
    if upload.name not in (None, batch.name):
        raise invalid("batch_name is not the name of the batch")
    if upload.rules not in (None, batch.rules):
        raise invalid(
            "rules are not those of the batch; PATCH /api/v1/batches/{batch_id} changes them", "invalid_rules"
        )
    if upload.starts_at not in (None, batch.starts_at) or upload.ends_at not in (None, batch.ends_at):
        raise invalid("starts_at and ends_at must be those of the batch; PATCH /api/v1/batches/{batch_id} changes them")
    return batch


async def load_upload(
    context: RequestContext, upload: Upload, batch: Batch | NewBatch, act: Act[PreloadReport] = UNKEPT
) -> PreloadReport:
    """Load the codes. A new batch and its codes are stored together or not at all."""
    caller = context.caller
    owner = await owner_of_codes(context, upload.client)
    try:
        return await preload_file(
            context.services.stores,
            upload.file,
            batch_id=batch.id if isinstance(batch, Batch) else None,
            new_batch=batch if isinstance(batch, NewBatch) else None,
            client_id=caller.client_id,
            default_client=None if caller.client_id else owner,
            create_clients=upload.create_clients,
            create_option="the upload field create_clients=true",
            sheet=upload.sheet,
            attributes=upload.attributes,
            actor=caller.actor,
            act=act,
        )
    except UnfinishedLoadError as error:
        # The worker loads them into Redis; until then the batch answers 503, not "no code found".
        batch_id = str(error.report.batch_id)
        log.exception("uploaded codes are not in Redis yet; the worker will load them", batch_id=batch_id)
        raise ProblemError(
            503,
            "codes are not in Redis yet",
            "not_ready",
            detail="the codes are stored and will be issued as soon as Redis has them; do not upload them again",
            headers={"Retry-After": "5"},
            members={"batch_id": batch_id},
        ) from None


def digest_of_file(file: BinaryIO) -> bytes:
    """Return the SHA-256 of a file, and rewind it."""
    digest = hashlib.sha256()
    while block := file.read(READ_BYTES):
        digest.update(block)
    file.seek(0)
    return digest.digest()


async def show(report: PreloadReport) -> Response:
    return json_response(show_report(report))


def _message(report: PreloadReport) -> str:
    if report.loaded:
        return "Codes uploaded successfully"
    if report.nothing_new:
        return "Nothing new: all codes are in the batch already"
    return "No new codes: no batch was created" if report.batch_id is None else "No new codes"


def show_report(report: PreloadReport) -> dict[str, Any]:
    return {
        "message": _message(report),
        "batch_id": report.batch_id,
        "rows": report.rows,
        "loaded": report.loaded,
        "duplicates_in_file": report.duplicates_in_file,
        "duplicates_in_batch": report.duplicates_in_batch,
        "duplicates_in_other_batches": report.duplicates_in_other_batches,
        "rejected": report.rejected,
        "created_clients": report.created_clients,
        "rejections": [{"line": row.line, "reason": str(row.reason)} for row in report.rejections[:SHOWN_ROWS]],
        "clients": [asdict(client) for client in report.clients[:SHOWN_ROWS]],
        "default_client": None if report.default_client is None else asdict(report.default_client),
        "owners_in_batch": [asdict(client) for client in report.owners_in_batch],
        "other_batches": [asdict(batch) for batch in report.other_batches],
        "repeated_rows": [
            {"line": row.line, "first_line": row.first_line} for row in report.repeated_rows[:SHOWN_ROWS]
        ],
        "rows_in_other_batches": [
            {"line": row.line, "batch_id": row.batch_id} for row in report.rows_in_other_batches[:SHOWN_ROWS]
        ],
    }


OPERATIONS = (Operation("POST", UPLOAD_PATH, post_upload, upload=True, lenient=True, takes_slot=False),)
