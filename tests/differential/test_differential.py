"""The fast path and the ASGI path answer the same, byte for byte, and leave the same ledger.

DIFFERENTIAL_SEED and DIFFERENTIAL_COUNT choose the cases; DIFFERENTIAL_INDEX sends a single one of them.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr

from issuer.settings import Settings
from tests.differential import consume_cases, issue_cases, redeem_cases, redemption_cases
from tests.differential.case import Case, Framing, RequestDraft
from tests.differential.generator import PRODUCTS, cases, make_case
from tests.differential.installation_copy import InstallationCopy, Plant, copy_of, drop
from tests.differential.ledger import LEDGER, NO_ROWS, read_ledger
from tests.differential.odd_json import Members, members_of, text_of
from tests.differential.plants import first_of_two, without_answer_line, without_request_header
from tests.differential.preloaded import ACME, Preloaded, preload
from tests.differential.run import RunResult, run, serving
from tests.support.databases import clone_database, fresh_redis_url
from tests.support.servers import PostgresServer, RedisServer

DEFAULT_SEED: Final = 1
DEFAULT_COUNT: Final = 1_000
SHORT_COUNT: Final = 300
SEED: Final = int(os.environ.get("DIFFERENTIAL_SEED", DEFAULT_SEED))
COUNT: Final = int(os.environ.get("DIFFERENTIAL_COUNT", DEFAULT_COUNT))
INDEX: Final = os.environ.get("DIFFERENTIAL_INDEX")
LONG_COUNT: Final = 20_000
SHOWN: Final = 5
"""Differences that a failure shows."""

REACHED: Final = {
    (product, status)
    for product, statuses in {
        "redeem": (200, 400, 401, 403, 404, 405, 409, 410, 422, 429),
        "redemption": (200, 201, 400, 401, 403, 404, 409, 410, 422),
        "consume": (200, 400, 401, 403, 404, 405, 409, 410, 422, 429),
        "issue": (200, 400, 401, 403, 404, 405, 415, 429, 504),
    }.items()
    for status in statuses
}
"""Answers that the cases of the short run get, so that it compares more than refusals of one kind."""


def preload_fresh(redis: RedisServer, postgres: PostgresServer, directory: Path, stock: int) -> Preloaded:
    settings = Settings(
        redis_url=SecretStr(fresh_redis_url(redis)),
        database_url=SecretStr(clone_database(postgres)),
        partitions=4,
        max_backlog=100_000,
        data_dir=directory,
    )
    return asyncio.run(preload(settings, stock))


@pytest.fixture(scope="module")
def preloaded(
    redis_server: RedisServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Preloaded:
    return preload_fresh(redis_server, postgres_server, tmp_path_factory.mktemp("differential"), stock=max(COUNT, 100))


Pair = tuple[InstallationCopy, InstallationCopy]


@contextmanager
def two_installations(preloaded: Preloaded, redis: RedisServer, postgres: PostgresServer) -> Iterator[Pair]:
    """Two copies of what was preloaded; the first one is for the fast path."""
    pair = [copy_of(preloaded, postgres, fresh_redis_url(redis), name) for name in ("fast", "asgi")]
    try:
        yield pair[0], pair[1]
    finally:
        for installation in pair:
            drop(installation, postgres)


@pytest.fixture
def pair(preloaded: Preloaded, redis_server: RedisServer, postgres_server: PostgresServer) -> Iterator[Pair]:
    with two_installations(preloaded, redis_server, postgres_server) as installations:
        yield installations


def compare(pair: Pair, chosen: Iterable[Case], plant: Plant = dict) -> RunResult:
    fast, asgi = pair
    with serving(fast, asgi, plant) as clients:
        result = run(chosen, clients)
    # Otherwise both installations would have answered in the same way, and nothing would be compared.
    assert asgi.taken == 0 < fast.taken
    return result


def check_answers(result: RunResult) -> None:
    if not result.differences:
        return
    shown = "\n\n".join(map(str, result.differences[:SHOWN]))
    first = result.differences[0].case
    pytest.fail(
        f"{len(result.differences)} differences in the first {result.cases} cases of seed {first.seed}:\n\n{shown}\n\n"
        f"Run up to the first one again: DIFFERENTIAL_SEED={first.seed} DIFFERENTIAL_COUNT={first.index + 1}; "
        f"it alone: DIFFERENTIAL_SEED={first.seed} DIFFERENTIAL_INDEX={first.index}",
        pytrace=False,
    )


def check_ledgers(pair: Pair, directory: Path) -> None:
    for installation in pair:
        installation.drain(directory)
    fast, asgi = (read_ledger(installation.settings) for installation in pair)
    assert fast == asgi
    assert not any(fast[table] for table in NO_ROWS)
    assert INDEX is not None or all(fast[table] for table in LEDGER)


@pytest.mark.parametrize("count", [SHORT_COUNT, pytest.param(COUNT, marks=pytest.mark.long)])
def test_both_paths_answer_alike(preloaded: Preloaded, pair: Pair, tmp_path: Path, count: int) -> None:
    chosen = cases(SEED, count, preloaded) if INDEX is None else [make_case(SEED, int(INDEX), preloaded)]
    result = compare(pair, chosen)
    check_answers(result)
    check_ledgers(pair, tmp_path)
    if (SEED, INDEX) == (DEFAULT_SEED, None):
        assert pair[0].taken > count / 2
        assert count < DEFAULT_COUNT or REACHED - result.statuses.keys() == set()


@pytest.mark.long
@pytest.mark.minutes
@pytest.mark.timeout(1_200)
def test_both_paths_answer_alike_20_000_times(
    redis_server: RedisServer, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    preloaded = preload_fresh(redis_server, postgres_server, tmp_path, stock=LONG_COUNT)
    with two_installations(preloaded, redis_server, postgres_server) as pair:
        check_answers(compare(pair, cases(SEED, LONG_COUNT, preloaded)))
        check_ledgers(pair, tmp_path)


CREDENTIALS: Final = {
    "scheme in another case": (200, [b"bEARER %b"]),
    "bare key": (200, [b"%b"]),
    "another scheme": (401, [b"Basic %b"]),
    "no-break space before the key": (401, [b"Bearer \xa0%b"]),
    "no-break space behind the key": (401, [b"%b\xa0"]),
    "the same header twice": (400, [b"Bearer %b", b"Bearer %b"]),
    "an empty header beside a good one": (400, [b"", b"Bearer %b"]),
}
"""Status and values of Authorization, with the place of a good key."""


@pytest.mark.long
def test_credentials_have_one_rule_on_every_route_and_path(preloaded: Preloaded, pair: Pair) -> None:
    key = preloaded.keys["redeem"].encode()
    chosen: list[Case] = []
    statuses: list[tuple[str, int]] = []
    for status, values in CREDENTIALS.values():
        headers = [(b"Authorization", value.replace(b"%b", key)) for value in values]
        for path, body in good_bodies(preloaded).items():
            draft = RequestDraft(path, [(b"Content-Type", b"application/json"), *headers], text_of(body))
            chosen.append(Case(SEED, len(chosen), path.decode(), "keys", (draft.to_bytes(),), (draft.method,)))
            statuses.append((path.decode(), 201 if (path, status) == (redemption_cases.PATH, 200) else status))
    result = compare(pair, chosen)
    check_answers(result)
    assert result.statuses == Counter(statuses)


def good_bodies(preloaded: Preloaded) -> dict[bytes, Members]:
    customer = "dddddddd-0000-4000-8000-000000000000"
    return {
        redeem_cases.PATH: members_of(batchid=preloaded.batches["open"], clientid=str(ACME), customerid=customer),
        redemption_cases.PATH: members_of(batch_id=preloaded.batches["open"], client=str(ACME), customer="anna"),
        consume_cases.PATH: members_of(code="OPEN", client_id=str(ACME)),
        issue_cases.PATH: members_of(campaignId=preloaded.campaigns["open"]),
    }


OFFERS: Final = (
    (),
    ((b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"AAMAAABkAAQAAP__")),
    ((b"Upgrade", b"websocket"), (b"Connection", b"keep-alive, upgrade")),
)


@pytest.mark.long
def test_an_offered_upgrade_keeps_the_body_on_every_route(preloaded: Preloaded, pair: Pair, tmp_path: Path) -> None:
    key = (b"Authorization", b"Bearer " + preloaded.keys["redeem"].encode())
    chosen: list[Case] = []
    for path, body in good_bodies(preloaded).items():
        for offer, framing in product(OFFERS, (Framing.LENGTH, Framing.CHUNKED)):
            headers = [(b"Content-Type", b"application/json"), key, *offer]
            draft = RequestDraft(path, headers, text_of(body), framing=framing, chunk_size=16)
            whole = draft.to_bytes()
            for pieces in ((whole,), (draft.head(), draft.payload()), (whole[:-3], whole[-3:])):
                chosen.append(Case(SEED, len(chosen), path.decode(), "keys", pieces, (draft.method,)))
    result = compare(pair, chosen)
    check_answers(result)
    assert {status for _, status in result.statuses} == {200, 201}
    check_ledgers(pair, tmp_path)


@pytest.mark.parametrize(
    "plant",
    [without_answer_line(b"idempotency-replayed: true"), first_of_two(b"authorization")],
    ids=["a header line is missing", "the first of two keys counts"],
)
@pytest.mark.long
def test_a_planted_difference_of_answers_is_found(preloaded: Preloaded, pair: Pair, plant: Plant) -> None:
    result = compare(pair, cases(SEED, SHORT_COUNT, preloaded), plant)
    assert result.differences
    with pytest.raises(pytest.fail.Exception, match=f"DIFFERENTIAL_SEED={SEED} DIFFERENTIAL_INDEX="):
        check_answers(result)


@pytest.mark.long
def test_a_planted_difference_of_ledgers_is_found(preloaded: Preloaded, pair: Pair, tmp_path: Path) -> None:
    """An Idempotency-Key that is answered well and not recorded shows in the ledger alone."""
    chosen = with_new_keys(case for case in cases(SEED, COUNT, preloaded) if case.title in PRODUCTS)
    assert not compare(pair, chosen, without_request_header(b"idempotency-key")).differences
    with pytest.raises(AssertionError, match="key_hash"):
        check_ledgers(pair, tmp_path)


def with_new_keys(plain: Iterable[Case]) -> Sequence[Case]:
    """Those cases whose Idempotency-Key no earlier one has."""
    found: dict[bytes, Case] = {}
    for case in plain:
        _, given, rest = b"".join(case.pieces).partition(b"Idempotency-Key: ")
        if given:
            found.setdefault(rest.partition(b"\r\n")[0], case)
    return list(found.values())


def test_a_case_follows_from_its_seed_and_index(preloaded: Preloaded) -> None:
    assert [make_case(SEED, index, preloaded) for index in range(100)] == list(cases(SEED, 100, preloaded))
    assert make_case(SEED, 7, preloaded) != make_case(SEED + 1, 7, preloaded)
