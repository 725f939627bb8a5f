"""JSON Schemas of uploaded and generated codes, and of look-ups by code."""

from __future__ import annotations

from typing import Final

from issuer.generating.code_format import MAX_CODES
from issuer.generating.jobs import JobState
from issuer.generating.word_filter import MAX_WORDS
from issuer.http.openapi.shapes import (
    ATTRIBUTES,
    BATCH,
    CLIENT,
    CLIENT_NAME,
    CODE,
    COUNT,
    CUSTOMER_TEXT,
    INSTANT,
    NAME,
    UUID,
    Schema,
    absent_or_null,
    count,
    described,
    nullable,
    shape,
)
from issuer.ledger.redemptions import CodeState

_CHARACTERS: Final[dict[str, Schema]] = {
    "alphabet": {
        "type": "string",
        "minLength": 2,
        "maxLength": 16_384,
        "description": "`numeric`, `alphabetic`, `alphanumeric`, `unambiguous`, or the characters themselves",
        "default": "unambiguous",
    },
    "check": {"type": "boolean", "description": "The last drawn character is a check character (Luhn mod N)"},
    "unlucky": {
        "type": "boolean",
        "default": True,
        "description": "Exclude codes with a word of the built-in list",
    },
    "unlucky_words": {
        "type": "array",
        "maxItems": MAX_WORDS,
        "items": {"type": "string", "minLength": 2, "maxLength": 64},
        "description": "Exclude codes with one of these words",
    },
}
_FIXED: Final[Schema] = {"type": "string", "maxLength": 255}
_WITH_LENGTH: Final[dict[str, Schema]] = {
    "length": {
        "type": "integer", "minimum": 1, "maximum": 255, "default": 12, "description": "Number of drawn characters",
    },
    "prefix": described(_FIXED, "Text before the drawn characters"),
    "suffix": described(_FIXED, "Text after the drawn characters"),
}  # fmt: skip
_PATTERN: Final[Schema] = {
    "type": "string",
    "minLength": 1,
    "maxLength": 255,
    "pattern": "#",
    "description": "Each # is replaced by a drawn character",
    "examples": ["SUMMER-####-####"],
}
CODE_FORMAT: Final[dict[str, Schema]] = {**_CHARACTERS, **_WITH_LENGTH, "pattern": _PATTERN}
"""All fields of a code format; `pattern` excludes `length`, `prefix` and `suffix`."""

_CODES: Final[Schema] = {
    "type": "integer", "minimum": 1, "maximum": MAX_CODES, "description": "Number of codes to add to the batch",
}  # fmt: skip
_GENERATION: Final[dict[str, Schema]] = {
    "client": described(CLIENT, "The owner of the codes: a text or a UUID. Optional if the batch has one client"),
    "client_id": described(CLIENT, "The same as `client`"),
    "job_id": described(UUID, "An id chosen by the caller. The same request with the same id is the same job"),
    **_CHARACTERS,
}
_NO_LENGTH: Final[dict[str, Schema]] = {
    "length": {"type": "null", "description": "The pattern says how many characters are drawn"},
    "prefix": {"enum": [None, ""], "description": "Part of the pattern"},
    "suffix": {"enum": [None, ""], "description": "Part of the pattern"},
}
_NO_PATTERN: Final[Schema] = {"type": "null", "description": "Instead of `length`, `prefix` and `suffix`"}
_OPTIONAL: Final = (*_GENERATION, *_WITH_LENGTH)
_OTHER_BATCHES: Final[Schema] = {
    "type": "array",
    "maxItems": 20,
    "items": shape({"batch_id": UUID, "batch_name": NAME, "codes": COUNT}),
}

_CLIENT_REPORT: Final = shape(
    {"client_id": UUID, "client_name": CLIENT_NAME, "count": count("The number of rows or codes")}
)
_CLIENT_REPORTS: Final[Schema] = {"type": "array", "maxItems": 100, "items": _CLIENT_REPORT}

CODES: Final[dict[str, Schema]] = {
    "Upload": {
        "type": "object",
        "properties": {
            "file": {
                "type": "string",
                "contentMediaType": "application/octet-stream",
                "description": "CSV or .xlsx, recognised by its content",
            },
            "batch_name": described(
                NAME, "Name of a new batch; needed unless `batch_id` or `batch` names an existing one"
            ),
            "batch_id": described(
                UUID, "An existing batch, whose `batch_name` and `rules` may be left out; or the id of the new batch"
            ),
            "batch": described(BATCH, "Name or id of an existing batch"),
            "create_clients": {
                "enum": ["true", "false"], "default": "false", "description": "Register unknown clients of the file",
            },
            "sheet": {"type": "string", "maxLength": 255, "description": "A sheet of a workbook; default: the first"},
            "attributes": {
                "type": "string",
                "description": "Columns that are kept and issued with the code, separated by commas",
                "examples": ["pin,seat"],
            },
            "rules": {
                "type": "string", "contentMediaType": "application/json", "description": "Rules as a JSON object",
            },
            "starts_at": described(INSTANT, "Start of redemptions of a new batch; left out: at once"),
            "ends_at": described(INSTANT, "End of redemptions of a new batch; left out: never"),
            "client": described(CLIENT, "The client of rows that name none: its text or its UUID"),
            "client_id": described(CLIENT, "The same as `client`"),
        },
        "required": ["file"],
    },
    "Uploaded": shape(
        {
            "message": {
                "enum": [
                    "Codes uploaded successfully",
                    "Nothing new: all codes are in the batch already",
                    "No new codes: no batch was created",
                    "No new codes",
                ],
                "description": "The result for people",
            },
            "batch_id": described(nullable(UUID), "null: `loaded` is 0, so no batch was created"),
            "rows": count(
                "Rows of the file: loaded + duplicates_in_file + duplicates_in_batch + duplicates_in_other_batches"
                " + rejected"
            ),
            "loaded": count("Codes added to the batch"),
            "duplicates_in_file": count("Rows whose code is in an earlier row of the client"),
            "duplicates_in_batch": count("Rows whose code the client already has in the batch"),
            "duplicates_in_other_batches": count("Rows whose code the client already has in another batch"),
            "created_clients": {
                "type": "array", "items": {"type": "string"}, "description": "Clients that were registered",
            },
            "rejected": count("Rows that are not valid"),
            "rejections": {
                "type": "array",
                "items": shape({"line": COUNT, "reason": {"type": "string"}}),
                "description": "The first 100 rejected rows",
            },
            "clients": described(_CLIENT_REPORTS, "The first 100 clients that got codes, with the number of new ones"),
            "default_client": described(
                nullable(_CLIENT_REPORT),
                "The client `ISSUER_DEFAULT_CLIENT`, and the number of rows that named no client and became its rows;"
                " null: there are none",
            ),
            "owners_in_batch": described(
                _CLIENT_REPORTS, "Where no code is new: other clients that have codes of the file in the batch"
            ),
            "other_batches": described(_OTHER_BATCHES, "The batches with most of `duplicates_in_other_batches`"),
            "repeated_rows": {
                "type": "array",
                "maxItems": 100,
                "items": shape({"line": COUNT, "first_line": COUNT}),
                "description": "The first 100 rows whose code an earlier row of the file has, and the line of that row",
            },
            "rows_in_other_batches": {
                "type": "array",
                "maxItems": 100,
                "items": shape({"line": COUNT, "batch_id": UUID}),
                "description": "The first 100 of these rows, and the batch that has the code of each",
            },
        }
    ),
    "Generation": {
        "anyOf": [
            shape(
                {"count": _CODES, "pattern": _NO_PATTERN, **absent_or_null({**_GENERATION, **_WITH_LENGTH})},
                optional=("pattern", *_OPTIONAL),
            ),
            shape(
                {"count": _CODES, "pattern": _PATTERN, **absent_or_null(_GENERATION), **_NO_LENGTH},
                optional=_OPTIONAL,
            ),
        ]
    },
    "GenerationJob": shape(
        {
            "id": UUID,
            "batch_id": UUID,
            "batch_name": NAME,
            "client_id": UUID,
            "client_name": CLIENT_NAME,
            "state": {"enum": [*JobState], "description": "What the job does now"},
            "count": count("Number of codes requested"),
            "made": count("Number of codes generated so far"),
            "format": described(
                shape(CODE_FORMAT, optional=(*_WITH_LENGTH, "pattern")), "The format of the generated codes"
            ),
            "problem": {"type": ["string", "null"], "description": "Why the job failed; null: it did not"},
            "warning": {"type": ["string", "null"], "description": "Set if codes of this format are easy to enumerate"},
            "created_at": INSTANT,
            "finished_at": nullable(INSTANT),
        }
    ),
    "CodePlace": shape(
        {
            "batch_id": UUID,
            "batch_name": NAME,
            "client_id": UUID,
            "client_name": CLIENT_NAME,
            "seq": count("Position of the code in its pool, from 1"),
            "code": CODE,
            "state": {
                "enum": [*CodeState],
                "description": "`backlog`: redeemed, not in the ledger yet; `unknown`: Redis is unavailable",
            },
            "redemption_id": described(nullable(UUID), "The id of the redemption; null: not in the ledger"),
            "customer_id": nullable(UUID),
            "customer": CUSTOMER_TEXT,
            "redeemed_at": nullable(INSTANT),
            "attributes": ATTRIBUTES,
        },
        optional=("attributes",),
    ),
}  # fmt: skip
