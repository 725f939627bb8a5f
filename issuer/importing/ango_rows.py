"""The rows of one batch of Ango: each is checked, and becomes a line for COPY or a problem of the report."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from uuid import UUID

import asyncpg

from issuer.ids import Identity, InvalidIdError
from issuer.importing.report import ImportReport
from issuer.loading.code_rows import RowError, check_code
from issuer.loading.file_clients import FileClients, NoClientError


class AngoRows:
    """The codes of one batch. They come with the used ones first, and are numbered for each client in that order.

    `now`: the time of usages without one that can be used. It is the latest there can be, so limits count them longest.
    """

    def __init__(
        self, identify: Callable[[str], Identity], batch_id: UUID, report: ImportReport, now: datetime
    ) -> None:
        self.clients = FileClients(identify)
        self.rows = 0
        self._identify = identify
        self._batch = str(batch_id)
        self._report = report
        self._now = now

    async def lines(self, rows: AsyncIterator[asyncpg.Record]) -> AsyncIterator[bytes]:
        """Yield the lines for the table `imported_rows`. Raises TooManyClientsError."""
        async for row in rows:
            code: str = row["code"] or ""
            try:
                # As it was issued: customers have it in this spelling.
                check_code(code)
                client = self.clients.add(self.clients.find(row["client"] or ""), row["client"] or "")
            except (RowError, InvalidIdError, NoClientError) as error:
                self._report.skip(self._batch, code, str(error))
                continue
            self.rows += 1
            client.count += 1
            customer, used_at = self._usage(row) if row["used"] else (None, None)
            fields: tuple[str | None, ...] = (
                str(self.rows), str(client.index), str(client.count), code,
                customer and str(customer.uuid), customer and customer.text,
                None if used_at is None else used_at.isoformat(),
            )  # fmt: skip
            yield "\t".join(map(_field, fields)).encode() + b"\n"

    def _usage(self, row: asyncpg.Record) -> tuple[Identity | None, datetime]:
        """Return the customer and the time of a used code. Notes whatever is not as it should be."""
        if not row["in_codes"]:
            self._note(row, "is used, but not among the codes: it was added to them")
        if row["copies"] > 1:
            self._note(row, f"is {row['copies']} times among the codes of its client")
        if row["usages"] > 1:
            self._note(row, f"was used {row['usages']} times: the first usage was recorded")
        used_at: datetime | None = row["used_at"]
        if used_at is None:
            why = "was used at no time that can be read" if row["in_usage"] else "has a customer, but no usage"
            self._note(row, f"{why}: the time of the import was recorded")
        customer = self._customer(row, row["usage_customer"] or row["code_customer"])
        if row["usage_customer"] and row["code_customer"] and customer != self._customer(row, row["code_customer"]):
            self._note(row, "names two customers: that of its usage was recorded")
        return customer, used_at or self._now

    def _customer(self, row: asyncpg.Record, text: str | None) -> Identity | None:
        try:
            return None if text is None else self._identify(text)
        except InvalidIdError as error:
            self._note(row, f"was recorded without its customer: {error}")
            return None

    def _note(self, row: asyncpg.Record, reason: str) -> None:
        self._report.note(self._batch, row["code"], reason)


def _field(value: str | None) -> str:
    # No code and no id has a control character: only the escape character itself needs an escape.
    return "\\N" if value is None else value.replace("\\", "\\\\")
