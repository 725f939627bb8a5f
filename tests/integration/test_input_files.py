"""Every kind of file that people load codes from, through the reader of commands and uploads, on real servers."""

from __future__ import annotations

import io
import time

import pytest

from issuer.loading.errors import CodeFileError
from issuer.loading.preload import preload_file
from issuer.loading.report import NothingLoadedError
from issuer.storage.stores import Stores
from tests.support.input_files import FILES, InputFile
from tests.support.loading import new_batch


async def _outcome(stores: Stores, file: InputFile) -> tuple[tuple[str, ...], int, str]:
    """Load the file; return the codes of its batch in order, the rejected rows, and the message about the file."""
    batch = await new_batch(stores)
    try:
        report = await preload_file(
            stores, io.BytesIO(file.data), batch_id=batch.id, client_id=file.client, sheet=file.sheet
        )
    except (CodeFileError, NothingLoadedError) as error:
        assert await stores.postgres.fetchval("SELECT count(*) FROM codes") == 0
        return (), 0, str(error)
    rows = await stores.postgres.fetch("DELETE FROM codes WHERE batch_id = $1 RETURNING seq, code", batch.id)
    first = next((f"line {row.line}: {row.reason}" for row in report.rejections), "")
    return tuple(code for _, code in sorted((row["seq"], row["code"]) for row in rows)), report.rejected, first


@pytest.mark.long
async def test_files_are_read_as_people_have_them(stores: Stores) -> None:
    """The table of the files is printed: `pytest -rP` shows it."""
    outcomes = {}
    for file in FILES:
        started = time.monotonic()
        outcomes[file.name] = codes, rejected, message = await _outcome(stores, file)
        took_ms = (time.monotonic() - started) * 1000
        print(f"| {file.name} | {len(codes)} | {rejected} | {message} | {took_ms:.0f} ms |")
    assert outcomes == {file.name: (file.codes, file.rejected, file.message) for file in FILES}
