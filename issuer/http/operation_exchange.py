"""Operations on the fast path: a task for each request, without ASGI messages and without Starlette's router.

For operations of which one process answers many at once (`Operation.gathered`). Requests with a query, or with what is
encoded in their path, take the ASGI path; the answers are the same (`issuer.http.operations.serve_operation`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from issuer.http.edge.exchange import Connection, Exchange, FastPath
from issuer.http.edge.header_fields import HeaderFields
from issuer.http.operations import Operation, log_refusal, serve_operation
from issuer.http.problems.failures import problem_of
from issuer.http.problems.problem import not_ready
from issuer.http.security_log import is_logged
from issuer.http.services import Services
from issuer.http.wire import CRASHED, Wire, make_head, prebuilt, problem_wire

log = structlog.get_logger()

FindServices = Callable[[], Services | None]
_PARAMETER: Final = re.compile(r"\\\{(\w+):id\\\}")
_NOT_READY: Final = prebuilt(not_ready("the server is starting or stopping"))


class OperationExchange(Exchange):
    """One request to an operation. `path`: of the request, which matches that of the operation."""

    __slots__ = ("_find_services", "_operation", "_path", "_task")

    def __init__(
        self,
        operation: Operation,
        find_services: FindServices,
        path: re.Match[bytes],
        connection: Connection,
        fields: HeaderFields,
    ) -> None:
        super().__init__(connection, fields)
        self._operation = operation
        self._find_services = find_services
        self._path = path
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self.connection.read_body(self)

    def receive(self, body: bytes) -> None:
        self._task = asyncio.get_running_loop().create_task(self._serve(body), name="operation")

    async def _serve(self, body: bytes) -> None:
        self.connection.respond(self, await self._answer(body))

    async def _answer(self, body: bytes) -> Wire:
        services, operation = self._find_services(), self._operation
        if services is None:
            return problem_wire(_NOT_READY)
        path_params = {name: value.decode() for name, value in self._path.groupdict().items()}
        scope: Scope = {
            "type": "http", "method": operation.method, "path": self._path.string.decode(), "query_string": b"",
            "headers": self.headers, "client": self.connection.client, "path_params": path_params,
            "header_fields": self.fields,
        }  # fmt: skip
        try:
            return _wire_of(await serve_operation(operation, WholeRequest(scope, body), services))
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                log.exception("request failed", path=operation.path)
                return CRASHED
            if is_logged(problem):
                log_refusal(services, problem, operation.path, scope)
            return problem_wire(problem)


class WholeRequest(Request):
    """A request whose whole body has arrived."""

    def __init__(self, scope: Scope, body: bytes) -> None:
        super().__init__(scope)
        self._whole = body

    async def body(self) -> bytes:
        return self._whole


def fast_operations(operations: Iterable[Operation], find_services: FindServices) -> dict[bytes, FastPath]:
    """Return the fast paths of the gathered operations, each by the end of its path: see `GuardedHttpToolsProtocol`."""
    return {
        b"*/" + operation.path.rpartition("/")[2].encode(): FastPath(
            partial(_make, operation, _plain_path(operation.path), find_services)
        )
        for operation in operations
        if operation.gathered
    }


def _plain_path(path: str) -> re.Pattern[bytes]:
    """Return what matches a path whose ids need no decoding and are no dot segments."""
    return re.compile(_PARAMETER.sub(r"(?P<\1>[0-9A-Za-z_~-]+)", re.escape(path)).encode())


def _make(
    operation: Operation,
    path: re.Pattern[bytes],
    find_services: FindServices,
    connection: Connection,
    fields: HeaderFields,
) -> OperationExchange | None:
    match = path.fullmatch(connection.url)
    if match is None:
        return None
    return OperationExchange(operation, find_services, match, connection, fields)


def _wire_of(response: Response) -> Wire:
    return Wire(make_head(response.status_code, response.raw_headers), bytes(response.body))
