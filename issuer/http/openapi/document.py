"""The OpenAPI 3.1 document. Tests compare it with the routes in both directions, and the running app with it."""

from __future__ import annotations

import re
from typing import Final

from issuer import __version__
from issuer.http.openapi.campaigns import campaign_paths, coupon_service_paths
from issuer.http.openapi.clients import client_paths
from issuer.http.openapi.coupons import coupon_paths
from issuer.http.openapi.fealty import fealty_paths
from issuer.http.openapi.finding import finding_paths
from issuer.http.openapi.hooks import hook_paths
from issuer.http.openapi.keys import key_paths
from issuer.http.openapi.loyalty import loyalty_paths
from issuer.http.openapi.loyalty_cards import card_paths
from issuer.http.openapi.operating import operating_paths
from issuer.http.openapi.operators import operator_paths
from issuer.http.openapi.parts import (
    IDEMPOTENCY_KEY,
    OPERATOR,
    PAGED,
    REPLAYED,
    body,
    keeping,
    ok,
    operation,
    path_parameter,
)
from issuer.http.openapi.reconciliations import reconciliation_paths
from issuer.http.openapi.recoveries import recovery_paths
from issuer.http.openapi.reports import report_paths
from issuer.http.openapi.rewards import reward_paths
from issuer.http.openapi.schemas import COMPONENTS
from issuer.http.openapi.series import series_paths
from issuer.http.openapi.shapes import GIVEN_ID, Schema, ref


def _redemptions() -> Schema:
    answers = {
        201: ok("The redemption", ref("Redemption")),
        200: ok("The earlier redemption with the same Idempotency-Key", ref("Redemption"), headers=REPLAYED),
    }
    return operation(
        "redeem", "Issue a code to a customer", answers, 404, 409, 410, 422,
        operationId="redemptions",
        parameters=[IDEMPOTENCY_KEY],
        requestBody=body("RedemptionRequest"),
        description="Issues one code of the client's pool to the customer. Requires the scope `redeem`. `batch`, "
        "`client` and `customer` take a name or an id, `batch_id`, `client_id` and `customer_id` an id; one of each "
        "pair is enough, and two that differ are a 400. Without a client it is that of the key, or the default client. "
        "A 403 with the code `limit_reached` contains in `retry_at` and Retry-After when the limit admits the customer "
        "again; both are absent if the limit is indefinite.",
    )  # fmt: skip


def _redeem() -> Schema:
    return operation(
        "redeem", "Redeem a code", {200: ok("The issued code", ref("Redeemed"), headers=REPLAYED)}, 404, 409, 410, 422,
        operationId="redeem",
        parameters=[IDEMPOTENCY_KEY],
        requestBody=body("Redeem"),
        description="The route of the predecessor's clients: as `POST /api/v1/redemptions`, which answers more. "
        "Requires the scope `redeem`.",
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
            "batches", "List batches", {200: ok("The batches", either)}, operationId="listBatches", parameters=PAGED,
            description="Without parameters the response is a plain array of the batches that are not expired, oldest "
            "first. With `limit` or `cursor` it is a page of all batches, newest first.",
        ),
        "post": operation(
            "batches", "Create a batch", created, 404, 409, operationId="createBatch", requestBody=body("NewBatch"),
            description="The batch has no codes yet: generate or upload some.",
        ),
    }  # fmt: skip


def _batch() -> Schema:
    return {
        "parameters": [path_parameter("batch_id")],
        "get": operation(
            "batches", "Show a batch with its stock", {200: ok("The batch", ref("BatchWithStock"))}, 404,
            operationId="showBatch",
            description="The stock has one entry for each client with codes in the batch; a key that is bound to a "
            "client sees that one.",
        ),
        "patch": operation(
            "batches", "Change a batch", {200: ok("The changed batch", ref("Batch"))}, 404, 409,
            operationId="changeBatch", requestBody=body("BatchChange"),
            description="The response is sent once the change is in effect. New rules also count earlier redemptions; "
            "until these are counted, redeeming returns 503 `batch_rebuilding`. `expired: true` is final.",
        ),
    }  # fmt: skip


def _generate() -> Schema:
    job = ref("GenerationJob")
    location = {"Location": {"required": True, "schema": {"type": "string", "format": "uri-reference"}}}
    answers = {
        201: ok("The codes are in the batch", job, headers=location),
        202: ok("The job that will add the codes", job, headers=location),
    }
    return operation(
        "codes", "Generate codes", answers, 404, 409, 410, 429, 507, operationId="generateCodes",
        requestBody=body("Generation"),
        description="Adds exactly `count` random codes to the batch. Small counts are generated within the request, "
        "large ones by a job. A format with fewer than ten times `count` possible codes is refused with "
        "`length_needed`.",
    )  # fmt: skip


def _upload() -> Schema:
    return operation(
        "codes", "Upload codes", {200: ok("The result by row", ref("Uploaded"))}, 404, 409, 507,
        operationId="uploadCodes", requestBody=body("Upload", "multipart/form-data"),
        description="Creates a batch from a CSV file or a workbook (.xlsx) with the columns `client_id` and `code`. "
        "Invalid rows are counted, the first 100 are listed with a reason, and all other rows are loaded; if no row is "
        "valid, the upload is refused. A code that its client has already, in whatever batch, is not loaded again; if "
        "no code is new, no batch is created.",
    )  # fmt: skip


_NO_KEY: Final = re.compile("CouponService|^/hooks/|^/api/v1/account/?")
"""Paths of requests that keep no answer for an Idempotency-Key, or describe it themselves."""


def _keyed_paths() -> dict[str, Schema]:
    """Return all paths. Every POST takes an Idempotency-Key; the coupon service states which of its methods do."""
    return {
        path: {**item, "post": keeping(item["post"])} if "post" in item and not _NO_KEY.search(path) else item
        for path, item in _paths().items()
    }


def _paths() -> dict[str, Schema]:
    ledger = ok("A page of redemptions", ref("LedgerPage"))
    code = {"type": "string", "minLength": 1, "examples": ["SUMMER-0001"]}
    return {
        "/api/v1/redemptions": {"post": _redemptions()},
        "/api/v1/code/redeem": {"post": _redeem()},
        "/api/v1/batches": _batches(),
        "/api/v1/batches/{batch_id}": _batch(),
        "/api/v1/batches/{batch_id}/redemptions": {
            "parameters": [path_parameter("batch_id")],
            "get": operation("batches", "List the redemptions of a batch", {200: ledger}, 404,
                              operationId="batchRedemptions", parameters=PAGED,
                              description="What the ledger has, pool by pool in the order of issue."),
        },
        **client_paths(),
        **campaign_paths(),
        **coupon_service_paths(),
        "/api/v1/batches/{batch_id}/codes/generate": {"parameters": [path_parameter("batch_id")], "post": _generate()},
        "/api/v1/batches/{batch_id}/jobs/{job_id}": {
            "parameters": [path_parameter("batch_id"), path_parameter("job_id")],
            "get": operation("codes", "Show a generation job", {200: ok("The job", ref("GenerationJob"))}, 404,
                              operationId="showJob", description="How far the job is, and why it failed."),
        },
        "/api/v1/codes/upload": {"post": _upload()},
        "/api/v1/codes/{code}": {
            "parameters": [path_parameter("code", code)],
            "get": operation("codes", "Look up a code", {200: ok("The batches that contain it", ref("CodePage"))},
                              404, operationId="showCode", parameters=PAGED,
                              description="Where the code is, whether it was issued, and to which customer."),
        },
        "/api/v1/customers/{customer_id}/redemptions": {
            "parameters": [path_parameter("customer_id", GIVEN_ID)],
            "get": operation("customers", "List the redemptions of a customer", {200: ledger},
                              operationId="customerRedemptions", parameters=PAGED,
                              description="What the ledger has, newest first."),
        },
        "/api/v1/customers/{customer_id}": {
            "parameters": [path_parameter("customer_id", GIVEN_ID)],
            "delete": operation("customers", "Erase a customer id", {200: ok("What was erased", ref("Erasure"))},
                                 operationId="eraseCustomer",
                                 description="The redemptions stay in the ledger without the id, and still count. "
                                 + OPERATOR),
        },
        **coupon_paths(),
        **loyalty_paths(),
        **hook_paths(),
        **reward_paths(),
        **fealty_paths(),
        **card_paths(),
        **report_paths(),
        **operating_paths(),
        **key_paths(),
        **operator_paths(),
        **recovery_paths(),
        **series_paths(),
        **finding_paths(),
        **reconciliation_paths(),
    }  # fmt: skip


def document() -> Schema:
    """Return the whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "issuer",
            "version": __version__,
            "description": "Issues unique codes. Every error is a problem (RFC 9457) with a plain `error` and a stable "
            "`code`. Operations require an API key with the scope `admin` unless they say otherwise.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [
            {"name": name}
            for name in (
                "redeem",
                "coupons",
                "loyalty",
                "fealty",
                "clients",
                "batches",
                "campaigns",
                "coupon-service",
                "codes",
                "customers",
                "reports",
                "operating",
            )
        ],
        "security": [{"apiKey": []}],
        "paths": _keyed_paths(),
        "components": {
            "schemas": COMPONENTS,
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key (isk_…)"},
                "basic": {"type": "http", "scheme": "basic", "description": "Any user name, an API key as password"},
            },
        },
    }
