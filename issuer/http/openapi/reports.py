"""The reports in the OpenAPI document, built from the table of reports."""

from __future__ import annotations

from typing import Final

from issuer.http.openapi.parts import operation
from issuer.http.openapi.shapes import BATCH, CLIENT, CODE, GIVEN_ID, INSTANT, UUID, Schema
from issuer.reports.catalogue import REPORTS
from issuer.reports.formats import MEDIA_TYPES, Format
from issuer.reports.report import TIMES, Filter, Report

_CONTENTS: Final[dict[Format, Schema]] = {
    Format.CSV: {"type": "string"},
    Format.NDJSON: {"type": "string", "description": "One object per line; the last one contains the number of rows"},
    Format.XLSX: {},
}
_FILTERS: Final = {
    Filter.CODE: "The code of a coupon; case, spaces and dashes are ignored",
    Filter.FROM: "Start of the period, inclusive",
    Filter.TO: "End of the period, exclusive",
    Filter.BATCH: "Only rows of this batch",
    Filter.CLIENT: "Only rows of this client",
    Filter.CUSTOMER: "Only rows of this customer",
    Filter.PROGRAM: "Name or id of a program",
}


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _filter(name: Filter) -> list[Schema]:
    """Return the parameters of a filter."""
    if name is Filter.BATCH:
        return [_query("batch", BATCH, "Name or id of a batch"), _query("batch_id", UUID, _FILTERS[name])]
    if name is Filter.CLIENT:
        text = "The text of a registered client, or a UUID"
        return [_query("client", CLIENT, text), _query("client_id", CLIENT, _FILTERS[name])]
    schema = INSTANT if name in TIMES else CODE if name is Filter.CODE else GIVEN_ID
    return [_query(name, schema, _FILTERS[name])]


def _report(report: Report) -> Schema:
    answer = {
        "description": "The report. An aborted one ends without the last chunk, or with fewer bytes than announced",
        "headers": {"Content-Disposition": {"schema": {"type": "string"}}},
        "content": {MEDIA_TYPES[format_]: {"schema": schema} for format_, schema in _CONTENTS.items()},
    }
    errors = [404, 409] if {Filter.BATCH, Filter.PROGRAM} & {*report.filters} else [404]
    return operation(
        "reports", f"Export {report.name}", {200: answer}, *errors,
        operationId=f"report{report.name.capitalize()}",
        parameters=[
            *(parameter for name in report.filters for parameter in _filter(name)),
            _query("format", {"enum": [*Format], "default": Format.CSV}, "The format of the file"),
            _query("count", {"type": "boolean", "default": False},
                   "true: a CSV ends with a row that contains the number of rows, as the other formats always do"),
            _query("excel", {"type": "boolean", "default": False},
                   "true: a CSV for a double click in Excel: byte order mark, semicolons, codes such as 0012 kept"),
        ],
        description=f"{report.summary}. Columns: {', '.join(f'`{column}`' for column in report.columns)}.",
    )  # fmt: skip


def report_paths() -> dict[str, Schema]:
    return {f"/api/v1/reports/{report.name}": {"get": _report(report)} for report in REPORTS.values()}
