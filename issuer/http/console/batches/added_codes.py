"""Codes that a form adds to a batch: from a file, or generated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from issuer.batches.batch import Batch, NewBatch
from issuer.clients.quotas import QuotaExceededError
from issuer.generating.code_format import MAX_CODES, CodeFormat, CodeFormatError, CodeSpaceError
from issuer.generating.code_source import FewCodesError
from issuer.generating.jobs import Job, JobIdReusedError, TooManyJobsError, request_codes
from issuer.generating.request import GenerationRequest
from issuer.http.admin.generation import MAX_CODES_PER_REQUEST, generate_now
from issuer.http.admin.uploads import MAX_FIELD_BYTES, MAX_FIELDS, Upload, load_upload
from issuer.http.console.console_visit import ConsoleVisit
from issuer.http.console.layout.console_page import ConsolePage
from issuer.http.console.layout.typed_form import TypedForm
from issuer.http.loading import loading
from issuer.loading.errors import PreloadError
from issuer.loading.file_kind import FileKindError
from issuer.loading.report import NothingLoadedError, PreloadReport
from issuer.pools.memory import RedisMemoryError

FORM_LIMITS: Final[dict[str, Any]] = {"max_files": 1, "max_fields": MAX_FIELDS, "max_part_size": MAX_FIELD_BYTES}
UPLOADED: Final = "upload"
GENERATED: Final = "generate"
_REPORT: Final = ConsolePage("batches/report.html")


def texts_of(form: FormData) -> dict[str, str]:
    """Return the fields of a form that are no files."""
    return {name: value.strip() for name, value in form.items() if isinstance(value, str)}


def chosen_file(form: FormData, typed: TypedForm) -> UploadFile | None:
    """Return the file of a form, which a browser sends without a name where none was chosen."""
    file = form.get("file")
    if isinstance(file, UploadFile) and file.filename:
        return file
    typed.refuse("file", "choose a file with codes")
    return None


@contextmanager
def refused_load(typed: TypedForm) -> Iterator[None]:
    """Put the reason why a file is refused beside its field."""
    try:
        yield
    except NothingLoadedError as error:
        typed.refuse("file", "no row of this file can be loaded")
        typed.rejections = error.report.rejections
    except (PreloadError, FileKindError, RedisMemoryError, QuotaExceededError) as error:
        typed.refuse("file", str(error))


async def load_file(visit: ConsoleVisit, batch: Batch | NewBatch, file: UploadFile, client_id: UUID | None) -> Response:
    """Load a file into a batch; lead to the batch, or show what became of the rows that were not loaded."""
    owner = {} if client_id is None else {"client_id": str(client_id)}
    async with loading(visit.context.services, visit.context.caller.tenant):
        report = await load_upload(visit.context, Upload(file.file, {}, batch.name, batch.rules, client=owner), batch)
    path = None if report.batch_id is None else f"/console/batches/{report.batch_id}"
    if path is not None and report.loaded == report.rows:
        return respond(visit, path, f"{report.loaded:,} code{'s'[: report.loaded != 1]} loaded. {_when(batch)}")
    return _REPORT.response(visit, report=report, name=batch.name, batch_path=path, rows=_rows(report))


def respond(visit: ConsoleVisit, path: str, notice: str) -> Response:
    """Lead to a page. A form that a script has sent gets the path in a header: a redirect would be followed unseen."""
    response = visit.redirect(path, notice)
    if visit.request.headers.get("hx-request") == "true":
        response.status_code = 200
        response.headers["hx-redirect"] = path
        del response.headers["location"]
    return response


def _when(batch: Batch | NewBatch) -> str:
    return "" if batch.starts_at else "Customers can redeem them now."


def _rows(report: PreloadReport) -> list[tuple[int, str]]:
    """Return the lines that were not loaded and why, in the order of the file."""
    rejected = [(row.line, str(row.reason)) for row in report.rejections]
    repeated = [(row.line, f"the same code as line {row.first_line:,}") for row in report.repeated_rows]
    others = [(row.line, f"a code of the batch {row.batch_name}") for row in report.rows_in_other_batches]
    return sorted([*rejected, *repeated, *others])


def read_format(typed: TypedForm) -> tuple[CodeFormat, int] | None:
    """Return the form and the number of codes to generate; None: the form says what is wrong."""
    count = typed.number("count", least=1, most=MAX_CODES)
    if count is None:
        typed.refuse("count", f"type how many codes you need, up to {MAX_CODES:,}")
        return None
    try:
        code_format = CodeFormat(pattern=typed.text("pattern") or None)
        code_format.check_space(count)
    except (CodeFormatError, CodeSpaceError) as error:
        typed.refuse("pattern", str(error))
        return None
    return code_format, count


async def generate(
    visit: ConsoleVisit,
    typed: TypedForm,
    batch_id: UUID,
    client_id: UUID,
    wanted: tuple[CodeFormat, int],
    job_id: UUID | None = None,
) -> Job | None:
    """Generate codes now, or leave them to the worker; None: the form says what is wrong.

    `job_id`: that of the form, so that one that is sent twice generates once.
    """
    code_format, count = wanted
    request = GenerationRequest(batch_id, client_id, code_format, count, visit.actor)
    try:
        job = await request_codes(visit.context.services.stores, request, job_id=job_id, bounded=True)
    except (CodeSpaceError, FewCodesError) as error:
        typed.refuse("pattern", str(error))
    except (TooManyJobsError, RedisMemoryError, QuotaExceededError) as error:
        typed.refuse("count", str(error))
    except JobIdReusedError:
        typed.refuse("count", "this form was sent before, with other values: open it again")
    else:
        return await generate_now(visit.context, job) if count <= MAX_CODES_PER_REQUEST else job
    return None


def show_made(job: Job) -> str:
    """Return what has become of a request for codes, in a sentence."""
    if job.finished:
        return job.problem or f"{job.made:,} codes generated."
    return f"{job.request.count:,} codes are being generated."
