"""The OpenAPI 3.1 document. Tests hold it against the routes in both directions, and the real app against it."""

from __future__ import annotations

from typing import Any, Final

from issuer import __version__
from issuer.http.problems import MEDIA_TYPE
from issuer.http.schemas import COMPONENTS, UUID, Schema, ref
from issuer.pages import MAX_LIMIT

_ERRORS: Final = {
    400: "The request is not valid",
    401: "No API key, or an unknown one",
    403: "Not allowed, with this key or now",
    404: "Not found",
    405: "The method is not supported here",
    408: "The request did not arrive in time",
    409: "Not possible in the state that the batch is in",
    410: "The batch has expired",
    413: "The body is too large",
    415: "The body is of a kind that is not read here",
    422: "The Idempotency-Key was used with another clientid",
    429: "Too many at a time, or too much at once",
    431: "The request's head is too large",
    500: "Something went wrong in the server",
    501: "Compressed in a way that is not known here",
    503: "Not now: Retry-After says when to try again",
    504: "The caller's deadline has passed",
    507: "The codes do not fit into Redis",
}
_ANYWHERE: Final = (400, 405, 408, 413, 431, 500, 503)
"""Errors that can meet any request."""
_GUARDED: Final = (401, 403)

_TAGS: Final = ("redeem", "batches", "campaigns", "coupon service", "codes", "customers", "operating")

_RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 0}}}
_ERROR_HEADERS: Final[dict[int, Any]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    403: _RETRY_AFTER,
    405: {"Allow": {"required": True, "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}
_LIMIT: Final[Schema] = {
    "name": "limit",
    "in": "query",
    "description": "Items of a page at most",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 100},
}
_CURSOR: Final[Schema] = {
    "name": "cursor",
    "in": "query",
    "description": "next_cursor of the page before",
    "schema": {"type": "string", "minLength": 1, "maxLength": 512},
}
_PAGED: Final = [_LIMIT, _CURSOR]
_IDEMPOTENCY_KEY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key of the same customer in the same batch gets the same code, for 24 h",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
}


def _path(name: str, schema: Schema = UUID) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _json(schema: Schema, media_type: str = "application/json") -> Schema:
    return {"content": {media_type: {"schema": schema}}}


def _body(name: str, media_type: str = "application/json") -> Schema:
    return {"required": True, **_json(ref(name), media_type)}


def _problem(status: int) -> Schema:
    problem = {"description": _ERRORS[status], **_json(ref("Problem"), MEDIA_TYPE)}
    return {**problem, "headers": _ERROR_HEADERS[status]} if status in _ERROR_HEADERS else problem


def _operation(
    tag: str,
    summary: str,
    answers: dict[int, Schema],
    *errors: int,
    description: str = "",
    public: bool = False,
    **more: Any,
) -> Schema:
    """One operation; `answers` are those that are no problems."""
    statuses = sorted({*_ANYWHERE, *errors, *(() if public else _GUARDED)} - set(answers))
    responses = {str(status): answer for status, answer in answers.items()}
    responses |= {str(status): _problem(status) for status in statuses}
    operation: Schema = {"tags": [tag], "summary": summary, **more, "responses": responses}
    if description:
        operation["description"] = description
    return {**operation, "security": []} if public else operation


def _ok(description: str, schema: Schema, **more: Any) -> Schema:
    return {"description": description, **_json(schema), **more}


def _redeem() -> Schema:
    replayed = {"Idempotency-Replayed": {"description": "The code was given before", "schema": {"const": "true"}}}
    return _operation(
        "redeem", "Redeem a code", {200: _ok("The code", ref("Redeemed"), headers=replayed)}, 404, 409, 410, 422,
        operationId="redeem",
        parameters=[_IDEMPOTENCY_KEY],
        requestBody=_body("Redemption"),
        description="Hands out one code of the client's pool to the customer. Needs the scope `redeem`; everything "
        "else needs `admin`. A 403 with the code `limit_reached` says in `retry_at` and Retry-After when the limit "
        "lets the customer in again, if it ever does.",
    )  # fmt: skip


def _batches() -> Schema:
    either = {"oneOf": [{"type": "array", "items": ref("ListedBatch")}, ref("BatchPage")]}
    created = {
        201: _ok(
            "The batch", ref("Batch"), headers={"Location": {"schema": {"type": "string", "format": "uri-reference"}}}
        )
    }
    return {
        "get": _operation(
            "batches", "List batches", {200: _ok("Batches", either)}, operationId="listBatches", parameters=_PAGED,
            description="Without parameters a plain array of the batches that are not expired, oldest first. With "
            "`limit` or `cursor` pages of all batches, newest first.",
        ),
        "post": _operation(
            "batches", "Create a batch", created, operationId="createBatch", requestBody=_body("NewBatch")
        ),
    }  # fmt: skip


def _batch() -> Schema:
    return {
        "parameters": [_path("batch_id")],
        "get": _operation(
            "batches", "Show a batch with its stock", {200: _ok("The batch", ref("BatchWithStock"))}, 404,
            operationId="showBatch",
        ),
        "patch": _operation(
            "batches", "Change a batch", {200: _ok("The batch as it is now", ref("Batch"))}, 404, 409,
            operationId="changeBatch", requestBody=_body("BatchChange"),
            description="Answers when the change counts. New rules also count what was redeemed before them; the "
            "batch answers 503 `batch_rebuilding` until they do. `expired: true` is final.",
        ),
    }  # fmt: skip


def _campaigns() -> dict[str, Schema]:
    created = _ok(
        "The campaign", ref("Campaign"), headers={"Location": {"schema": {"type": "string", "format": "uri-reference"}}}
    )
    events = {"description": "The stream", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    html = {"description": "The page", "content": {"text/html": {"schema": {"type": "string"}}}}
    one = {"parameters": [_path("campaign_id")]}
    return {
        "/api/v1/campaigns": {
            "get": _operation("campaigns", "List campaigns", {200: _ok("Newest first", ref("CampaignPage"))},
                              operationId="listCampaigns", parameters=_PAGED),
            "post": _operation("campaigns", "Create a campaign", {201: created}, 507, operationId="createCampaign",
                               requestBody=_body("NewCampaign"),
                               description="Answers when the campaign can issue, with all its codes made."),
        },
        "/api/v1/campaigns/{campaign_id}": {
            **one,
            "get": _operation("campaigns", "Show a campaign", {200: _ok("The campaign", ref("Campaign"))}, 404,
                              operationId="showCampaign"),
            "patch": _operation("campaigns", "Change a campaign", {200: _ok("As it is now", ref("Campaign"))}, 404, 409,
                                507, operationId="changeCampaign", requestBody=_body("CampaignChange"),
                                description="Answers when the change counts; `public` counts within a second."),
        },
        "/api/v1/campaigns/{campaign_id}/codes": {
            **one,
            "get": _operation("campaigns", "The codes that were issued", {200: _ok("In order", ref("IssuedCodePage"))},
                              404, operationId="issuedCodes", parameters=_PAGED),
        },
        "/api/v1/campaigns/{campaign_id}/events": {
            **one,
            "get": _operation("campaigns", "Counters of a campaign as they change", {200: events}, 401, 403, 404,
                              operationId="campaignEvents", public=True,
                              description="Of a public campaign for everybody, of any other for administrators."),
        },
        "/c/{campaign_id}": {
            **one,
            "get": _operation("campaigns", "The page of a public campaign", {200: html}, 404,
                              operationId="campaignPage", public=True),
        },
    }  # fmt: skip


def _method(name: str, request: str, response: str, summary: str, *errors: int, **more: Any) -> Schema:
    """A method of the coupon service, as it is in JSON."""
    post = _operation(
        "coupon service", summary, {200: _ok("The answer", ref(response))}, 401, 403, 415, 429, 501, 504, *errors,
        operationId=name, requestBody=_body(request), **more,
    )  # fmt: skip
    for status in (400, 401, 403, 404, 429, 500, 501, 503, 504):
        if (answer := post["responses"].get(str(status))) is not None:
            answer["content"] = {**_json(ref("ConnectError"))["content"], **answer.get("content", {})}
    # The library says it without a word.
    del post["responses"]["415"]["content"]
    return {"post": post}


def _coupon_service() -> dict[str, Schema]:
    key = {**_IDEMPOTENCY_KEY, "description": "The same key in the same campaign gets the same code, for 24 h"}
    return {
        f"/coupon.CouponService/{name}": method
        for name, method in {
            "CreateCampaign": _method(
                "CreateCampaign", "CreateCampaignRequest", "CreateCampaignResponse", "Create a campaign"
            ),
            "GetCampaign": _method("GetCampaign", "CampaignRequest", "GetCampaignResponse", "Show a campaign", 404),
            "IssueCoupon": _method(
                "IssueCoupon", "CampaignRequest", "IssueCouponResponse", "Ask for a code", parameters=[key],
                description="Needs the scope `redeem`, but for a public campaign nothing.",
            ),
        }.items()
    }  # fmt: skip


def _generate() -> Schema:
    job = ref("GenerationJob")
    location = {"Location": {"required": True, "schema": {"type": "string", "format": "uri-reference"}}}
    answers = {
        201: _ok("The codes are in the batch", job, headers=location),
        202: _ok("They will be: the job says how far it is", job, headers=location),
    }
    return _operation(
        "codes", "Generate codes", answers, 404, 409, 410, 429, 507, operationId="generateCodes",
        requestBody=_body("Generation"),
        description="Adds exactly `count` random codes to the batch. Small counts are made at once, large ones by a "
        "job. A code space under ten times the count is refused with `length_needed`.",
    )  # fmt: skip


def _upload() -> Schema:
    return _operation(
        "codes", "Upload codes", {200: _ok("What became of the rows", ref("Uploaded"))}, 507,
        operationId="uploadCodes", requestBody=_body("Upload", "multipart/form-data"),
        description="A CSV file with the columns `client_id` and `code` becomes a new batch. Rows that are no good "
        "are counted and explained (the first 100) and cost no other row.",
    )  # fmt: skip


def _paths() -> dict[str, Schema]:
    plain = {"description": "Text for Prometheus", "content": {"text/plain": {"schema": {"type": "string"}}}}
    html = {"description": "A page", "content": {"text/html": {"schema": {"type": "string"}}}}
    ledger = _ok("Redemptions", ref("LedgerPage"))
    code = {"type": "string", "minLength": 1, "examples": ["SUMMER-0001"]}
    ready, health = ref("Readiness"), ref("Health")
    return {
        "/api/v1/code/redeem": {"post": _redeem()},
        "/api/v1/batches": _batches(),
        "/api/v1/batches/{batch_id}": _batch(),
        "/api/v1/batches/{batch_id}/redemptions": {
            "parameters": [_path("batch_id")],
            "get": _operation("batches", "What a batch handed out", {200: ledger}, 404,
                              operationId="batchRedemptions", parameters=_PAGED),
        },
        **_campaigns(),
        **_coupon_service(),
        "/api/v1/batches/{batch_id}/codes/generate": {"parameters": [_path("batch_id")], "post": _generate()},
        "/api/v1/batches/{batch_id}/jobs/{job_id}": {
            "parameters": [_path("batch_id"), _path("job_id")],
            "get": _operation("codes", "How far a job is", {200: _ok("The job", ref("GenerationJob"))}, 404,
                              operationId="showJob"),
        },
        "/api/v1/codes/upload": {"post": _upload()},
        "/api/v1/codes/{code}": {
            "parameters": [_path("code", code)],
            "get": _operation("codes", "Who got this code", {200: _ok("Its place in each batch", ref("CodePage"))},
                              404, operationId="showCode", parameters=_PAGED),
        },
        "/api/v1/customers/{customer_id}/redemptions": {
            "parameters": [_path("customer_id")],
            "get": _operation("customers", "What a customer got", {200: ledger},
                              operationId="customerRedemptions", parameters=_PAGED),
        },
        "/api/v1/customers/{customer_id}": {
            "parameters": [_path("customer_id")],
            "delete": _operation("customers", "Erase a customer's id", {200: _ok("What was erased", ref("Erasure"))},
                                 operationId="eraseCustomer",
                                 description="The redemptions and their number stay, the id goes."),
        },
        "/api/v1/audit": {
            "get": _operation("operating", "Who did what, when", {200: _ok("Newest first", ref("AuditPage"))},
                              operationId="audit", parameters=_PAGED),
        },
        "/livez": {"get": _operation("operating", "Does the process live", {200: _ok("Yes", ref("Alive"))},
                                     operationId="livez", public=True)},
        "/readyz": {"get": _operation("operating", "Can it redeem now", {200: _ok("Yes", ready), 503: _ok("No", ready)},
                                      operationId="readyz", public=True)},
        "/healthcheck": {"get": _operation("operating", "Are Redis and Postgres usable",
                                           {200: _ok("Yes", health), 500: _ok("No", health)},
                                           operationId="healthcheck", public=True)},
        "/metrics": {"get": _operation("operating", "Metrics", {200: plain}, operationId="metrics")},
        "/openapi.json": {"get": _operation("operating", "This document", {200: _ok("It", {"type": "object"})},
                                            operationId="openapi", public=True)},
        "/docs": {"get": _operation("operating", "This document as a page", {200: html},
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
            for name in ("redeem", "batches", "campaigns", "coupon service", "codes", "customers", "operating")
        ],
        "security": [{"apiKey": []}],
        "paths": _paths(),
        "components": {
            "schemas": COMPONENTS,
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer", "description": "An API key: isk_…"}},
        },
    }
