"""The counters of one process, and their sum over the files of all processes."""

from __future__ import annotations

from pathlib import Path

from issuer.contract.outcomes import Outcome
from issuer.http.metrics.tally import BOUNDS_S, Tally


def test_durations_are_counted_in_buckets() -> None:
    tally = Tally(None)
    for seconds in (0.0, BOUNDS_S[0], BOUNDS_S[0] + 1e-9, 99.0):
        tally.count("GRANTED", seconds)
    total = tally.total()
    assert total.outcomes == {"GRANTED": 4}
    assert (total.buckets[0], total.buckets[1], total.buckets[-1]) == (2, 1, 1)
    assert sum(total.buckets) == 4


def test_the_sum_never_decreases_on_any_process(tmp_path: Path) -> None:
    one, two = Tally(tmp_path), Tally(tmp_path)
    seen = []
    for _ in range(3):
        one.count(Outcome.GRANTED, 0.001)
        seen.append(one.total().outcomes["GRANTED"])
        two.count("GRANTED", 0.001)
        seen.append(two.total().outcomes["GRANTED"])
    assert seen == [1, 2, 3, 4, 5, 6]


def test_an_idle_process_writes_no_file_again(tmp_path: Path) -> None:
    tally = Tally(tmp_path)
    (path,) = tmp_path.iterdir()
    before = path.stat().st_ino
    tally.write()
    assert path.stat().st_ino == before
    tally.refuse("key")
    tally.write()
    assert path.stat().st_ino != before


def test_foreign_files_are_ignored(tmp_path: Path) -> None:
    tally = Tally(tmp_path)
    tally.count("GRANTED", 0.001)
    for number, text in enumerate(["", "[]", "{}", '{"outcomes": 1, "buckets": [], "seconds": 0}']):
        (tmp_path / f"api-{number}.json").write_text(text)
    assert tally.total().outcomes == {"GRANTED": 1}
