"""Test how large the body of a request may be, by its path."""

from __future__ import annotations

from issuer.http.edge.limits import UPLOAD_PATH, EdgeLimits


def test_the_pages_with_files_take_what_an_upload_takes() -> None:
    limits = EdgeLimits(max_body_bytes=10, max_body_bytes_by_path={UPLOAD_PATH: 1_000})
    assert limits.max_body_bytes_of(b"/console/batches/new") == 1_000
    assert limits.max_body_bytes_of(b"/console/batches/1/codes?x") == 1_000
    assert limits.max_body_bytes_of(b"/console/batches/1/edit") == 10
    assert limits.max_body_bytes_of(b"/console/batches/1/2/codes") == 10
