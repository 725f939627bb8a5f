"""Audit trail, health, metrics and the API document in the OpenAPI document."""

from __future__ import annotations

from issuer.http.openapi.parts import OPERATOR, PAGED, ok, operation
from issuer.http.openapi.shapes import Schema, ref


def operating_paths() -> dict[str, Schema]:
    plain = {
        "description": "The metrics in the Prometheus text format",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    html = {"description": "The page", "content": {"text/html": {"schema": {"type": "string"}}}}
    console = {"description": "The way to `/console`"}
    ready, health = ref("Readiness"), ref("Health")
    return {
        "/api/v1/audit": {
            "get": operation("operating", "List the audit trail", {200: ok("A page, newest first", ref("AuditPage"))},
                              operationId="audit", parameters=PAGED, description=OPERATOR),
        },
        "/livez": {"get": operation("operating", "Check liveness", {200: ok("The process is alive", ref("Alive"))},
                                     operationId="livez", public=True,
                                     description="It asks neither Redis nor Postgres: for restarts.")},
        "/readyz": {"get": operation("operating", "Check readiness",
                                      {200: ok("Ready", ready), 503: ok("Not ready", ready)},
                                      operationId="readyz", public=True,
                                      description="Whether this process can redeem codes: for load balancers.")},
        "/healthcheck": {"get": operation("operating", "Check that Redis and Postgres are available",
                                           {200: ok("Available", health), 500: ok("Not available", health)},
                                           operationId="healthcheck", public=True,
                                           description="Unlike `/readyz` it needs both of them.")},
        "/metrics": {"get": operation("operating", "Read the metrics", {200: plain}, operationId="metrics",
                                       description=OPERATOR)},
        "/openapi.json": {"get": operation("operating", "Read this document",
                                            {200: ok("OpenAPI 3.1", {"type": "object"})},
                                            operationId="openapi", public=True,
                                            description="OpenAPI 3.1 with JSON Schema 2020-12.")},
        "/": {"get": operation("operating", "Lead to the console", {200: html, 303: console},
                               operationId="start", public=True,
                               description="With `ISSUER_CONSOLE=off` a page that leads to `/docs`, without data.")},
        "/docs": {"get": operation("operating", "Show this document as a page", {200: html},
                                    operationId="docs", public=True,
                                    description="It takes an API key and sends requests.")},
    }  # fmt: skip
