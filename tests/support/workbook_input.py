"""Lines as the workbook process reads them: a head, the rows, their count."""

from __future__ import annotations

from typing import Final

import orjson

HEAD: Final = orjson.dumps({"name": "things", "columns": ["id", "name"]})


def workbook_lines(count: int) -> list[bytes]:
    """Return the complete input for `count` rows."""
    rows = [orjson.dumps({"id": number, "name": f"={number}"}) for number in range(count)]
    return [HEAD, *rows, orjson.dumps({"rows": count})]
