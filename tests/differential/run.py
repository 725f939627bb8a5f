"""One run: the same cases to two installations, answer by answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tests.differential.case import Case
from tests.differential.comparison import Comparison, Difference
from tests.differential.installation_copy import LISTENERS, InstallationCopy, Plant
from tests.differential.wire_client import Reply, WireClient

PROBE = b"GET /livez HTTP/1.1\r\nHost: issuer\r\nConnection: close\r\n\r\n"

Clients = Mapping[str, tuple[WireClient, WireClient]]


@dataclass(slots=True)
class RunResult:
    """What a run found. `statuses`: how often each status was the first answer to a request of a product."""

    cases: int = 0
    differences: list[Difference] = field(default_factory=list)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)


@contextmanager
def serving(fast: InstallationCopy, asgi: InstallationCopy, plant: Plant = dict) -> Iterator[Clients]:
    """Serve both, the first one with the fast path, and connect a client to each listener."""
    with ExitStack() as stack:
        stack.enter_context(fast.serving(plant))
        stack.enter_context(asgi.serving(None))
        clients = {}
        for listener in LISTENERS:
            pair = WireClient(fast.ports[listener]), WireClient(asgi.ports[listener])
            for client in pair:
                stack.callback(client.close)
            clients[listener] = pair
        yield clients


def run(cases: Iterable[Case], clients: Clients, *, max_differences: int = 20) -> RunResult:
    """Send the cases one after the other, each to both installations at once; stop at `max_differences`."""
    result, comparison = RunResult(), Comparison()
    for case in cases:
        fast, asgi = send(case, *clients[case.listener])
        result.cases += 1
        if len(case.methods) == 1 and fast.answers:
            result.statuses[case.title.partition(",")[0], fast.answers[0].status] += 1
        difference = comparison.difference(case, fast, asgi)
        if difference is not None:
            result.differences.append(difference)
            if len(result.differences) >= max_differences:
                break
    return result


def send(case: Case, fast: WireClient, asgi: WireClient) -> tuple[Reply, Reply]:
    """Send one case to both servers and return what came back."""
    pair = fast, asgi
    if case.probed:
        for client in pair:
            client.close()
    for client in pair:
        client.send(case.pieces)
    replies = [client.receive(case.methods) for client in pair]
    if case.probed:
        replies = [probed(client, reply, case.behind) for client, reply in zip(pair, replies, strict=True)]
    if any(reply.closed for reply in replies):
        for client in pair:
            client.close()
    return replies[0], replies[1]


def probed(client: WireClient, reply: Reply, behind: bytes) -> Reply:
    """The reply with what the connection answers to the bytes `behind` and a last request, if it is open."""
    if reply.closed:
        return reply
    client.send([behind + PROBE])
    after = client.receive([b"GET"])
    return Reply(reply.answers + after.answers, after.closed)
