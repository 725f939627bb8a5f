"""Error messages of commands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from typer.testing import CliRunner

from issuer.cli import app
from issuer.cli.output import print_json, print_list


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

    await print_list(read(), as_json=True, to_json=lambda item: item, line=str)
    assert capsys.readouterr().out == at_once
    await print_list(read(), as_json=False, to_json=lambda item: item, line=lambda item: item["id"])
    assert capsys.readouterr().out.split() == [item["id"] for chunk in chunks for item in chunk]
