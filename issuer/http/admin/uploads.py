"""POST /api/v1/codes/upload: create a batch from a file of codes, unless its client has all of the codes already."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Final

import structlog
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from issuer.batches.batch import NewBatch
from issuer.batches.rules import RulesError, parse_rules_text
from issuer.http.edge.limits import UPLOAD_PATH
from issuer.http.fields import bad_rules, json_response
from issuer.http.idempotency import request_digest
from issuer.http.loading import loading
from issuer.http.multipart_form import multipart_form
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.failures import SHOWN_ROWS
from issuer.http.problems.problem import ProblemError, invalid
from issuer.loading.preload import READ_BYTES, preload_file
from issuer.loading.report import PreloadReport, UnfinishedLoadError
from issuer.names import name_problem, text_problem
from issuer.storage.acts import Act

log = structlog.get_logger()

MAX_FIELDS: Final = 20
MAX_FIELD_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that passed every check that does not read the codes."""

    file: BinaryIO
    new_batch: NewBatch
    create_clients: bool
    sheet: str | None

    @property
    def fields(self) -> tuple[bytes, ...]:
        """What decides the result beside the file."""
        rules = self.new_batch.rules.to_text()
        sheet = self.sheet or ""
        return self.new_batch.name.encode(), rules.encode(), b"%d" % self.create_clients, sheet.encode()


async def post_upload(context: RequestContext) -> Response:
    """Create a batch from the uploaded file.

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
        act = context.act(show)
        # From here on nothing waits for the client.
        async with loading(context.services, caller.tenant):
            await _load(context, upload, act)
    return act.response


def check_form(form: FormData) -> Upload:
    """Check the form before anything is created. Raises ProblemError for the first fault found."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise invalid("No CSV file provided", "no_csv_file")
    name = form.get("batch_name")
    if not isinstance(name, str) or not name.strip():
        raise invalid("Batch name is required", "no_batch_name")
    problem = name_problem(name)
    if problem is not None:
        raise invalid(f"batch_{problem}")
    rules = form.get("rules", "")
    if not isinstance(rules, str):
        raise invalid("rules must be a JSON object", "invalid_rules")
    try:
        parsed = parse_rules_text(rules)
    except RulesError as error:
        raise bad_rules(error) from error
    create_clients = form.get("create_clients", "false")
    if create_clients not in ("true", "false"):
        raise invalid("create_clients must be true or false")
    return Upload(file.file, NewBatch(name, parsed), create_clients == "true", _sheet(form))


def _sheet(form: FormData) -> str | None:
    sheet = form.get("sheet", "")
    if not isinstance(sheet, str) or (sheet and text_problem(sheet) is not None):
        raise invalid("sheet must be the name of a sheet")
    return sheet or None


async def _load(context: RequestContext, upload: Upload, act: Act[PreloadReport]) -> None:
    """Load the codes into a new batch. Batch and codes are stored together or not at all."""
    caller = context.caller
    try:
        await preload_file(
            context.services.stores,
            upload.file,
            new_batch=upload.new_batch,
            client_id=caller.client_id,
            create_clients=upload.create_clients,
            sheet=upload.sheet,
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


def show_report(report: PreloadReport) -> dict[str, Any]:
    return {
        "message": "Codes uploaded successfully" if report.loaded else "No new codes: no batch was created",
        "batch_id": report.batch_id,
        "rows": report.rows,
        "loaded": report.loaded,
        "duplicates_in_file": report.duplicates_in_file,
        "duplicates_in_batch": report.duplicates_in_batch,
        "duplicates_in_other_batches": report.duplicates_in_other_batches,
        "rejected": report.rejected,
        "created_clients": report.created_clients,
        "rejections": [{"line": row.line, "reason": str(row.reason)} for row in report.rejections[:SHOWN_ROWS]],
        "other_batches": [asdict(batch) for batch in report.other_batches],
        "rows_in_other_batches": [
            {"line": row.line, "batch_id": row.batch_id} for row in report.rows_in_other_batches[:SHOWN_ROWS]
        ],
    }


OPERATIONS = (Operation("POST", UPLOAD_PATH, post_upload, upload=True, lenient=True, takes_slot=False),)
