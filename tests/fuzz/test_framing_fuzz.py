"""The fuzzer of framing, in a short and a long run. FUZZ_SEED chooses the sessions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from uuid import UUID

import pytest

from issuer.settings import Settings
from tests.fuzz.client import BadAnswerError, read_answers
from tests.fuzz.fuzz import MAX_GROWTH_BYTES, fuzz
from tests.fuzz.requests import FuzzTarget
from tests.fuzz.sessions import make_session

SEED: Final = int(os.environ.get("FUZZ_SEED", "1"))
SHORT: Final = 1_200
LONG: Final = 40_000
REACHED: Final = {200, 400, 401, 404, 405, 408, 431, 501, 505}
"""Statuses that a short run gets, so that it tests more than refusals of one kind."""


def test_any_framing_is_answered_or_refused(settings: Settings, tmp_path: Path) -> None:
    result = fuzz(settings, tmp_path, seed=SEED, requests=SHORT)
    assert not result.problems, str(result)
    assert result.answers.keys() >= REACHED, str(result)
    assert min(result.granted.values()) > SHORT / 20, str(result)


@pytest.mark.long
@pytest.mark.minutes
def test_a_long_run_leaves_no_memory_behind(settings: Settings, tmp_path: Path) -> None:
    result = fuzz(settings, tmp_path, seed=SEED + 1, requests=LONG)
    assert not result.problems, str(result)
    assert result.growth < MAX_GROWTH_BYTES, str(result)


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n",
        b"200 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nHTTP/1.1 400 Bad\r\nx",
    ],
)
def test_the_reader_refuses_what_is_no_answer(received: bytes) -> None:
    with pytest.raises(BadAnswerError):
        read_answers(received, cut=False)


def test_a_session_follows_from_its_seed_and_index(target: FuzzTarget) -> None:
    assert [make_session(7, index, target) for index in range(50)] == [
        make_session(7, index, target) for index in range(50)
    ]
    assert make_session(7, 1, target) != make_session(8, 1, target)


@pytest.fixture
def target() -> FuzzTarget:
    return FuzzTarget("isk_x", UUID(int=1), UUID(int=2), UUID(int=3))
