"""GET /api/v1/audit: the audit trail, newest entry first."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from issuer.access.audit import AuditEntry, list_entries
from issuer.http.auth import Access
from issuer.http.fields import PAGED, page_query, page_response
from issuer.http.operations import Operation, RequestContext
from issuer.instants import show_instant


def show_entry(entry: AuditEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": show_instant(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "detail": entry.detail,
        "hash": entry.hash.hex(),
    }


async def get_audit(context: RequestContext) -> Response:
    limit, cursor = page_query(context.request)
    page = await list_entries(context.services.stores.postgres, limit=limit, cursor=cursor)
    return page_response(page, show_entry)


OPERATIONS = (Operation("GET", "/api/v1/audit", get_audit, Access.OPERATOR, query=PAGED),)
