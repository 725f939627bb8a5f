"""GET /api/v1/reports/{redemptions|batches|…}: stream all rows of a selection as CSV, NDJSON or XLSX."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from issuer.http.fields import identity_field, instant_field
from issuer.http.naming import BATCH_FIELDS, CLIENT_FIELDS, named_batch, named_client
from issuer.http.operations import Handler, Operation, RequestContext
from issuer.http.problems.problem import ProblemError, invalid
from issuer.http.reading_pace import ReadingPace
from issuer.loyalty.named_programs import find_named_program
from issuer.names import text_problem
from issuer.reports.catalogue import REPORTS
from issuer.reports.formats import MEDIA_TYPES, CsvEncoder, Encoder, Format, NdjsonEncoder, encoded
from issuer.reports.report import Filter, Report, Selection
from issuer.reports.rows import Rows, read_rows
from issuer.reports.spool import workbook
from issuer.storage.postgres import own_connection

PATH: Final = "/api/v1/reports/"
_BLOCK_BYTES: Final = 65_536
_TOO_SLOW: Final = ProblemError(
    503,
    "the report took too long",
    "report_timeout",
    detail="narrow the selection, for example to a shorter period",
    headers={"Retry-After": "60"},
)


NAMED: Final = {Filter.BATCH: BATCH_FIELDS, Filter.CLIENT: CLIENT_FIELDS}
"""The filters that two parameters set: one takes a name or an id, the other an id."""


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """A parsed request.

    `count`: end a CSV with its number of rows, as the other formats always do. `excel`: a CSV as Excel needs it.
    """

    report: Report
    format: Format
    selection: Selection
    count: bool
    excel: bool


async def parse_request(context: RequestContext, report: Report) -> ReportRequest:
    """Parse the query. A bound key selects its own client and may name no other.

    Raises ProblemError, BatchNotFoundError and AmbiguousNameError: an unknown batch, or one of another client, is a 404
    as in the list of redemptions, not an empty report.
    """
    request, client_id = context.request, context.caller.client_id
    query, postgres = request.query_params, context.services.stores.postgres
    selection: dict[Filter, UUID | datetime | str] = {}
    for name in report.filters:
        value: UUID | datetime | str | None
        if name is Filter.BATCH:
            batch = await named_batch(context, query, client_id=client_id)
            value = None if batch is None else batch.id
        elif name is Filter.CLIENT:
            value = await named_client(context, query)
        elif name is Filter.PROGRAM:
            given = query.get(name)
            value = None if given is None else (await find_named_program(postgres, given, client_id=client_id)).id
        elif name is Filter.CODE:
            value = _code(query.get(name))
        elif name is Filter.CUSTOMER:
            value = identity_field(context.services.stores, query, name)
        else:
            value = instant_field(query, name)
        if value is not None:
            selection[name] = value
    if query.get("format", Format.CSV) not in [*Format]:
        raise invalid(f"format must be one of {', '.join(Format)}")
    format_ = Format(query.get("format", Format.CSV))
    count, excel = _flag(query, "count"), _flag(query, "excel")
    if excel and format_ is not Format.CSV:
        raise invalid("excel=true is for format=csv")
    return ReportRequest(report, format_, selection, count, excel)


def _flag(query: QueryParams, name: str) -> bool:
    if query.get(name, "false") not in ("true", "false"):
        raise invalid(f"{name} must be true or false")
    return query.get(name) == "true"


def _code(text: str | None) -> str | None:
    if text is not None and (text_problem(text) is not None):
        raise invalid("code must be the code of a coupon")
    return text


def parameters(report: Report) -> list[str]:
    """Return the query parameters of a report's filters: `batch` beside `batch_id`, `client` beside `client_id`."""
    return [name for filter_ in report.filters for name in NAMED.get(filter_, (str(filter_),))]


async def get_report(context: RequestContext, report: Report) -> Response:
    report_request = await parse_request(context, report)
    headers = {
        "content-disposition": f'attachment; filename="{report.name}.{report_request.format}"',
        "content-type": MEDIA_TYPES[report_request.format]
        + ("; charset=utf-8" if report_request.format is Format.CSV else ""),
    }
    if context.request.method == "HEAD":
        response = Response(headers=headers)
        # The length is unknown before the report is written.
        del response.headers["content-length"]
        return response
    return ReportResponse(context, report_request, headers)


class ReportResponse(Response):
    """A report, read from Postgres while it is sent and no faster than the client receives it.

    A failure before the first rows is answered with a problem. A later failure aborts the response: the last chunk is
    missing, or fewer bytes arrive than Content-Length announces, so no client takes the report for complete. Each
    response has a Postgres connection of its own and stops when the client disconnects, reads more slowly than
    ReadingPace allows, or `report_timeout_s` is over.
    """

    def __init__(self, context: RequestContext, report_request: ReportRequest, headers: dict[str, str]) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._services = context.services
        self._tenant = context.caller.tenant
        self._report_request = report_request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = self._send_workbook if self._report_request.format is Format.XLSX else self._send_text
        # Each report holds a connection to Postgres and takes its share of a core.
        async with self._services.slots.reports.hold(self._tenant):
            try:
                async with asyncio.timeout(self._services.settings.report_timeout_s):
                    await _run_until_disconnect(receive, work(ReadingPace(send)))
            except TimeoutError as error:
                raise _TOO_SLOW from error

    async def _send_text(self, send: Send) -> None:
        pieces = encoded(self._rows(), self._encoder())
        async with aclosing(pieces):
            first = await anext(pieces)
            await self._start(send)
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _send_workbook(self, send: Send) -> None:
        async with workbook(self._report_request.report, self._rows()) as (file, _):
            size = file.seek(0, 2)
            file.seek(0)
            self.headers["content-length"] = str(size)
            await self._start(send)
            while piece := await asyncio.to_thread(file.read, _BLOCK_BYTES):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    def _rows(self) -> Rows:
        settings, report_request = self._services.settings, self._report_request
        limit_s = settings.report_timeout_s
        connect = own_connection(settings, timeout_s=limit_s)
        return read_rows(connect, report_request.report, report_request.selection, timeout_s=limit_s)

    def _encoder(self) -> Encoder:
        report_request = self._report_request
        if report_request.format is Format.NDJSON:
            return NdjsonEncoder(report_request.report)
        return CsvEncoder(report_request.report, count=report_request.count, excel=report_request.excel)


async def _run_until_disconnect(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run the work to its end, or cancel it when the client disconnects. Raises what the work raises."""
    working = asyncio.create_task(work, name="report")
    watching = asyncio.create_task(_wait_for_disconnect(receive), name="report's client")
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait((working, watching))
        failure = None if working.cancelled() else working.exception()
    if failure is not None:
        raise failure


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _handler(report: Report) -> Handler:
    async def handler(context: RequestContext) -> Response:
        return await get_report(context, report)

    return handler


OPERATIONS = tuple(
    Operation("GET", PATH + report.name, _handler(report), query=(*parameters(report), "format", "count", "excel"))
    for report in REPORTS.values()
)
