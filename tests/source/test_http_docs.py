"""docs/http-api.md names every path, every outcome and every metric."""

from __future__ import annotations

from pathlib import Path

from issuer.contract.outcomes import COUPON_HTTP, HTTP
from issuer.http.metrics.exposition import NAMES
from issuer.http.openapi.document import document

TEXT = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()


def test_every_path_is_documented() -> None:
    text = TEXT.replace("$BATCH", "{batch_id}").replace("$CUSTOMER", "{customer_id}").replace("$JOB", "{job_id}")
    text = text.replace("$BAND", "{client_id}")
    assert [path for path in document()["paths"] if path not in text] == []


def test_every_refusal_is_documented() -> None:
    assert [a.error for a in (*HTTP.values(), *COUPON_HTTP.values()) if f"`{a.error}`" not in TEXT] == []


def test_every_metric_is_documented() -> None:
    assert [name for name in NAMES if f"`{name}" not in TEXT] == []
