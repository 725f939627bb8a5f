"""The OpenAPI document describes every operation, parameter and field, and has an example of every request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import jsonschema_rs

from issuer.http.openapi.document import document

DOCUMENT: Final = document()
METHODS: Final = ("get", "post", "put", "patch", "delete")


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield f"{method.upper()} {path}", {**item[method], "shared": item.get("parameters", [])}


def fields(schema: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every property of a schema and of the schemas in it, with its place."""
    if isinstance(schema, list):
        for part in schema:
            yield from fields(part, place)
    elif isinstance(schema, dict):
        for name, field in schema.get("properties", {}).items():
            yield f"{place}.{name}", field
            yield from fields(field, f"{place}.{name}")
        for name, part in schema.items():
            if name not in ("properties", "examples", "example", "const", "enum", "default"):
                yield from fields(part, place)


def admits(name: str, value: object) -> bool:
    schema = {"components": DOCUMENT["components"], "$ref": f"#/components/schemas/{name}"}
    return jsonschema_rs.Draft202012Validator(schema).is_valid(value)


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from DOCUMENT["components"]["schemas"].items()
    for name, operation in operations():
        for part in (operation.get("requestBody", {}), *operation["responses"].values()):
            for content in part.get("content", {}).values():
                yield name, content.get("schema", {})


def test_every_operation_parameter_and_field_is_described() -> None:
    bare = [name for name, operation in operations() if not operation.get("description")]
    for name, operation in operations():
        for parameter in (*operation["shared"], *operation.get("parameters", [])):
            if not parameter.get("description"):
                bare.append(f"{name} {parameter['name']}")
        bare += [f"{name} {status}" for status, answer in operation["responses"].items() if not answer["description"]]
    for name, schema in schemas():
        bare += [place for place, field in fields(schema, name) if not field.get("description")]
    assert sorted(set(bare)) == []


def test_every_request_has_an_example_that_its_schema_admits() -> None:
    faults = {}
    for name, operation in operations():
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            if "example" not in content:
                faults[name] = f"no example of {media_type}"
                continue
            # As one document, in which the references lead somewhere.
            schema = {"components": DOCUMENT["components"], **content["schema"]}
            validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
            if errors := [error.message for error in validator.iter_errors(content["example"])]:
                faults[name] = "; ".join(errors)
    assert faults == {}


def test_the_schemas_admit_what_the_lenient_routes_take_and_no_more() -> None:
    text = {"code": "A-1", "availability_count": " 5", "paused": "true", "discount_fixed": "5.00", "rules": ""}
    numbers = {"code": "A-1", "availability_count": 5, "code_length": 256, "discount_fixed": 5.5, "unknown": []}
    drawn = {"availability_count": 5, "code_length": "12", "check": "true"}
    for coupon in (text, numbers, drawn):
        assert admits("NewCoupon", coupon)
    for fault in ({"code_length": 256}, {"availability_count": "many"}, {"check": ""}, {"discount_fixed": 0}):
        assert not admits("NewCoupon", drawn | fault)
    assert not admits("NewCoupon", text | {"prefix": "B-"}), "beside a code"
    redemption = {"batchid": "0d9b6f0e-6c1f-4a53-9c56-5d0c2f2b7a11", "customerid": "\tanna "}
    assert admits("Redeem", redemption)
    for unseen in ("", " \u0002", "x" * 513):
        assert not admits("Redeem", redemption | {"customerid": unseen})
