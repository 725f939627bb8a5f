"""Faults in the fast path of one installation, which the test must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from issuer.http.edge.exchange import Connection, Exchange
from issuer.http.edge.header_fields import HeaderFields, header_fields
from issuer.http.edge.protocol import GuardedHttpToolsProtocol
from issuer.http.hot_exchange import HotExchange
from issuer.http.wire import Head, Wire
from tests.differential.case import Header
from tests.differential.installation_copy import Make, Plant


def without_answer_line(line: bytes) -> Plant:
    """Leave this header line out of all answers of the fast path."""

    def without(wire: Wire) -> Wire:
        head = wire.head
        return Wire(Head(head.status, head.headers, head.lines.replace(line + b"\r\n", b"")), wire.body)

    def changed(make: Make) -> Make:
        def made(connection: Connection, fields: HeaderFields) -> Exchange | None:
            exchange = make(connection, fields)
            if exchange is not None:
                kind = type(exchange)
                assert issubclass(kind, HotExchange)

                def finish(exchange: HotExchange, outcome: str, wire: Wire) -> None:
                    kind.finish(exchange, outcome, without(wire))

                exchange.__class__ = type(kind.__name__, (kind,), {"__slots__": (), "finish": finish})
            return exchange

        return made

    return _each(changed)


def first_of_two(name: bytes) -> Plant:
    """Show the fast path only the first header of this name."""

    def shown(headers: list[Header]) -> list[Header]:
        first = next((header for header in headers if header[0] == name), None)
        return [header for header in headers if header[0] != name or header is first]

    return _showing(shown)


def without_request_header(name: bytes) -> Plant:
    """Hide all headers of this name from the fast path."""
    return _showing(lambda headers: [header for header in headers if header[0] != name])


def _showing(shown: Callable[[list[Header]], list[Header]]) -> Plant:
    def changed(make: Make) -> Make:
        def made(connection: Connection, _: HeaderFields) -> Exchange | None:
            assert isinstance(connection, GuardedHttpToolsProtocol)
            connection.headers[:] = shown(connection.headers)
            return make(connection, header_fields(connection.headers))

        return made

    return _each(changed)


def _each(changed: Callable[[Make], Make]) -> Plant:
    return lambda paths: {path: replace(way, make=changed(way.make)) for path, way in paths.items()}
