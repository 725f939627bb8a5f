"""Error messages of commands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from typer.testing import CliRunner

from issuer.cli import app
from issuer.cli.output import print_json, print_list
from issuer.cli.tables import Table, print_table


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("batchs", "No such command 'batchs'. Did you mean 'batches'?", "issuer --help"),
        ("batches show", "Missing argument 'BATCH'.", "issuer batches show --help"),
        ("keys create --nam x", "No such option: --nam (Possible options: --name)", "issuer keys create --help"),
    ],
)
def test_errors_of_usage_look_as_all_errors_do(words: str, error: str, hint: str) -> None:
    done = CliRunner().invoke(app, words.split(), prog_name="issuer")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == f"error: {error}\nhint: {hint}\n"


def test_a_group_without_a_command_prints_its_help() -> None:
    done = CliRunner().invoke(app, ["batches"], prog_name="issuer")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: issuer batches")


@pytest.mark.parametrize("sizes", [[], [0], [1], [2, 0, 1], [3, 3]])
async def test_a_list_printed_in_chunks_is_one_json_document(
    capsys: pytest.CaptureFixture[str], sizes: list[int]
) -> None:
    chunks = [
        [{"id": f"{at}-{number}", "rules": {"limits": [number]}} for number in range(size)]
        for at, size in enumerate(sizes)
    ]
    print_json([item for chunk in chunks for item in chunk])
    at_once = capsys.readouterr().out

    async def read() -> AsyncIterator[list[dict[str, Any]]]:
        for chunk in chunks:
            yield chunk

    async def show(*, as_json: bool) -> str:
        await print_list(
            read(),
            as_json=as_json,
            to_json=lambda item: item,
            headers=("id",),
            row=lambda item: (item["id"],),
            empty="no items: see `issuer --help`",
        )
        return capsys.readouterr().out

    assert await show(as_json=True) == at_once
    ids = [item["id"] for chunk in chunks for item in chunk]
    assert (await show(as_json=False)).split() == (["id", *ids] if ids else [])


def test_a_table_aligns_what_people_see(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(("name", "codes", "client"), empty="")
    table.add([("한국", 5, "a"), ("Sommer\u202e", 1_234_567, "b")])
    table.add([("a longer name than before", None, "c")])
    table.close()
    assert capsys.readouterr().out.splitlines() == [
        "name              codes  client",
        "한국                  5  a",
        "Sommer\\u202e  1,234,567  b",
        "a longer name than before          ?  c",
    ]


def test_an_empty_table_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id",), [], empty="no batches yet: see `issuer preload --help`")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "no batches yet: see `issuer preload --help`\n")
