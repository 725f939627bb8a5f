"""POST /api/v1/codes/upload: create a batch from a CSV file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Final
from uuid import UUID

import structlog
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from issuer.batches.rules import Rules, RulesError, parse_rules_text
from issuer.batches.store import Batch, BatchChanges, change_batch, create_batch
from issuer.http.edge.limits import UPLOAD_PATH
from issuer.http.fields import bad_rules, check_query, json_response
from issuer.http.multipart_form import multipart_form
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError, invalid
from issuer.loading.bounded_lines import LINE_BYTES
from issuer.loading.code_csv import CodeCsv
from issuer.loading.csv_header import CsvHeaderError
from issuer.loading.preload import preload_csv
from issuer.loading.report import PreloadReport
from issuer.names import name_problem
from issuer.storage.postgres import unavailable_translated
from issuer.storage.redis_link import RedisUnavailableError
from issuer.storage.stores import Stores

log = structlog.get_logger()

MAX_FIELDS: Final = 20
MAX_FIELD_BYTES: Final = 65_536
SHOWN_REJECTIONS: Final = 100


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that passed every check that does not read the codes."""

    file: BinaryIO
    batch_name: str
    rules: Rules


async def post_upload(context: RequestContext) -> Response:
    """Create a batch from the uploaded file.

    The form is spooled to disk as it arrives and the codes are read from there, so memory use does not depend on them.
    """
    check_query(context.request)
    loads = context.services.loads
    if loads.locked():
        # Each upload holds a connection to Postgres and keeps a core busy until it ends.
        raise ProblemError(503, "too many uploads at once", "overloaded", headers={"Retry-After": "10"})
    limits = {"max_files": 1, "max_fields": MAX_FIELDS, "max_part_size": MAX_FIELD_BYTES}
    async with loads, multipart_form(context.request, **limits) as form:
        upload = check_form(form, context.caller.client_id)
        stores, caller = context.services.stores, context.caller
        batch = await create_batch(
            stores, name=upload.batch_name, rules=upload.rules, client_id=caller.client_id, actor=caller.actor
        )
        report = await _load(stores, batch, upload, caller.client_id, caller.actor)
    return json_response(show_report(report, batch.id))


def check_form(form: FormData, client_id: UUID | None) -> Upload:
    """Check the form before anything is created. Raises ProblemError for the first fault found."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        raise invalid("No CSV file provided", "no_csv_file")
    if not (file.filename or "").lower().endswith(".csv"):
        raise invalid("File must be a CSV", "not_a_csv_file")
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
    check_header(file.file, client_id)
    return Upload(file.file, name, parsed)


def check_header(file: BinaryIO, client_id: UUID | None) -> None:
    """Check the header row and rewind the file. Raises ProblemError if a column is missing."""
    head = file.read(LINE_BYTES)
    file.seek(0)
    try:
        CodeCsv(client_id).check_header(head)
    except CsvHeaderError as error:
        message = "CSV must contain 'code' and 'client_id' columns"
        raise ProblemError(400, message, "missing_csv_columns", detail=str(error)) from error


async def _load(stores: Stores, batch: Batch, upload: Upload, client_id: UUID | None, actor: str) -> PreloadReport:
    """Load the codes. If this fails with no code stored, end the batch: no response has named its id."""
    try:
        return await preload_csv(stores, upload.file, batch_id=batch.id, client_id=client_id, actor=actor)
    except Exception:
        async with unavailable_translated():
            count = await stores.postgres.fetchval("SELECT sum(total)::bigint FROM pools WHERE batch_id = $1", batch.id)
        if not count:
            # A Redis that refuses writes may refuse this one too; the worker applies the change there later.
            with suppress(RedisUnavailableError):
                await change_batch(stores, batch.id, BatchChanges(expired=True), actor=actor)
            raise
        # The worker loads them into Redis; until then the batch answers 503, not "no code found".
        log.exception("uploaded codes are not in Redis yet; the worker will load them", batch_id=str(batch.id))
        raise ProblemError(
            503,
            "codes are not in Redis yet",
            "not_ready",
            detail="the codes are stored and will be issued as soon as Redis has them; do not upload them again",
            headers={"Retry-After": "5"},
            members={"batch_id": str(batch.id)},
        ) from None


def show_report(report: PreloadReport, batch_id: UUID) -> dict[str, Any]:
    return {
        "message": "Codes uploaded successfully",
        "batch_id": batch_id,
        "rows": report.rows,
        "loaded": report.loaded,
        "duplicates_in_file": report.duplicates_in_file,
        "duplicates_in_batch": report.duplicates_in_batch,
        "rejected": report.rejected,
        "rejections": [{"line": row.line, "reason": str(row.reason)} for row in report.rejections[:SHOWN_REJECTIONS]],
    }


OPERATIONS = (Operation("POST", UPLOAD_PATH, post_upload, upload=True),)
