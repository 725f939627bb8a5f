"""The OpenAPI 3.1 document. Tests hold it against the routes in both directions, and the real app against it."""

from __future__ import annotations

from issuer import __version__
from issuer.http.openapi.campaigns import campaign_paths, coupon_service_paths
from issuer.http.openapi.coupons import coupon_paths
from issuer.http.openapi.parts import IDEMPOTENCY_KEY, PAGED, body, ok, operation, path_parameter
from issuer.http.openapi.reports import report_paths
from issuer.http.openapi.schemas import COMPONENTS
from issuer.http.openapi.shapes import Schema, ref


def _redeem() -> Schema:
    replayed = {"Idempotency-Replayed": {"description": "The code was given before", "schema": {"const": "true"}}}
    return operation(
        "redeem", "Redeem a code", {200: ok("The code", ref("Redeemed"), headers=replayed)}, 404, 409, 410, 422,
        operationId="redeem",
        parameters=[IDEMPOTENCY_KEY],
        requestBody=body("Redemption"),
        description="Hands out one code of the client's pool to the customer. Needs the scope `redeem`; everything "
        "else needs `admin`. A 403 with the code `limit_reached` says in `retry_at` and Retry-After when the limit "
        "lets the customer in again, if it ever does.",
    )  # fmt: skip


def _batches() -> Schema:
    either = {"oneOf": [{"type": "array", "items": ref("ListedBatch")}, ref("BatchPage")]}
    created = {
        201: ok(
            "The batch", ref("Batch"), headers={"Location": {"schema": {"type": "string", "format": "uri-reference"}}}
        )
    }
    return {
        "get": operation(
            "batches", "List batches", {200: ok("Batches", either)}, operationId="listBatches", parameters=PAGED,
            description="Without parameters a plain array of the batches that are not expired, oldest first. With "
            "`limit` or `cursor` pages of all batches, newest first.",
        ),
        "post": operation(
            "batches", "Create a batch", created, operationId="createBatch", requestBody=body("NewBatch")
        ),
    }  # fmt: skip


def _batch() -> Schema:
    return {
        "parameters": [path_parameter("batch_id")],
        "get": operation(
            "batches", "Show a batch with its stock", {200: ok("The batch", ref("BatchWithStock"))}, 404,
            operationId="showBatch",
        ),
        "patch": operation(
            "batches", "Change a batch", {200: ok("The batch as it is now", ref("Batch"))}, 404, 409,
            operationId="changeBatch", requestBody=body("BatchChange"),
            description="Answers when the change counts. New rules also count what was redeemed before them; the "
            "batch answers 503 `batch_rebuilding` until they do. `expired: true` is final.",
        ),
    }  # fmt: skip


def _generate() -> Schema:
    job = ref("GenerationJob")
    location = {"Location": {"required": True, "schema": {"type": "string", "format": "uri-reference"}}}
    answers = {
        201: ok("The codes are in the batch", job, headers=location),
        202: ok("They will be: the job says how far it is", job, headers=location),
    }
    return operation(
        "codes", "Generate codes", answers, 404, 409, 410, 429, 507, operationId="generateCodes",
        requestBody=body("Generation"),
        description="Adds exactly `count` random codes to the batch. Small counts are made at once, large ones by a "
        "job. A code space under ten times the count is refused with `length_needed`.",
    )  # fmt: skip


def _upload() -> Schema:
    return operation(
        "codes", "Upload codes", {200: ok("What became of the rows", ref("Uploaded"))}, 507,
        operationId="uploadCodes", requestBody=body("Upload", "multipart/form-data"),
        description="A CSV file with the columns `client_id` and `code` becomes a new batch. Rows that are no good "
        "are counted and explained (the first 100) and cost no other row.",
    )  # fmt: skip


def _paths() -> dict[str, Schema]:
    plain = {"description": "Text for Prometheus", "content": {"text/plain": {"schema": {"type": "string"}}}}
    html = {"description": "A page", "content": {"text/html": {"schema": {"type": "string"}}}}
    ledger = ok("Redemptions", ref("LedgerPage"))
    code = {"type": "string", "minLength": 1, "examples": ["SUMMER-0001"]}
    ready, health = ref("Readiness"), ref("Health")
    return {
        "/api/v1/code/redeem": {"post": _redeem()},
        "/api/v1/batches": _batches(),
        "/api/v1/batches/{batch_id}": _batch(),
        "/api/v1/batches/{batch_id}/redemptions": {
            "parameters": [path_parameter("batch_id")],
            "get": operation("batches", "What a batch handed out", {200: ledger}, 404,
                              operationId="batchRedemptions", parameters=PAGED),
        },
        **campaign_paths(),
        **coupon_service_paths(),
        "/api/v1/batches/{batch_id}/codes/generate": {"parameters": [path_parameter("batch_id")], "post": _generate()},
        "/api/v1/batches/{batch_id}/jobs/{job_id}": {
            "parameters": [path_parameter("batch_id"), path_parameter("job_id")],
            "get": operation("codes", "How far a job is", {200: ok("The job", ref("GenerationJob"))}, 404,
                              operationId="showJob"),
        },
        "/api/v1/codes/upload": {"post": _upload()},
        "/api/v1/codes/{code}": {
            "parameters": [path_parameter("code", code)],
            "get": operation("codes", "Who got this code", {200: ok("Its place in each batch", ref("CodePage"))},
                              404, operationId="showCode", parameters=PAGED),
        },
        "/api/v1/customers/{customer_id}/redemptions": {
            "parameters": [path_parameter("customer_id")],
            "get": operation("customers", "What a customer got", {200: ledger},
                              operationId="customerRedemptions", parameters=PAGED),
        },
        "/api/v1/customers/{customer_id}": {
            "parameters": [path_parameter("customer_id")],
            "delete": operation("customers", "Erase a customer's id", {200: ok("What was erased", ref("Erasure"))},
                                 operationId="eraseCustomer",
                                 description="The redemptions and their number stay, the id goes."),
        },
        **coupon_paths(),
        **report_paths(),
        "/api/v1/audit": {
            "get": operation("operating", "Who did what, when", {200: ok("Newest first", ref("AuditPage"))},
                              operationId="audit", parameters=PAGED),
        },
        "/livez": {"get": operation("operating", "Does the process live", {200: ok("Yes", ref("Alive"))},
                                     operationId="livez", public=True)},
        "/readyz": {"get": operation("operating", "Can it redeem now", {200: ok("Yes", ready), 503: ok("No", ready)},
                                      operationId="readyz", public=True)},
        "/healthcheck": {"get": operation("operating", "Are Redis and Postgres usable",
                                           {200: ok("Yes", health), 500: ok("No", health)},
                                           operationId="healthcheck", public=True)},
        "/metrics": {"get": operation("operating", "Metrics", {200: plain}, operationId="metrics")},
        "/openapi.json": {"get": operation("operating", "This document", {200: ok("It", {"type": "object"})},
                                            operationId="openapi", public=True)},
        "/docs": {"get": operation("operating", "This document as a page", {200: html},
                                    operationId="docs", public=True)},
    }  # fmt: skip


def document() -> Schema:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "issuer",
            "version": __version__,
            "description": "Hands out unique codes. Every error is an RFC 9457 problem with a plain `error` and a "
            "stable `code`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [
            {"name": name}
            for name in (
                "redeem",
                "coupons",
                "batches",
                "campaigns",
                "coupon service",
                "codes",
                "customers",
                "reports",
                "operating",
            )
        ],
        "security": [{"apiKey": []}],
        "paths": _paths(),
        "components": {
            "schemas": COMPONENTS,
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer", "description": "An API key: isk_…"}},
        },
    }
