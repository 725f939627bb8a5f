"""Without an installation every command says so first, whatever servers listen at the default addresses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from issuer.cli import app
from issuer.cli.output import find_installation, start_hint
from issuer.embedded.datadir import DataDirectory, RunningInstallation
from issuer.settings import load_settings

WITHOUT_INSTALLATION: Final = {("up",), ("serve",), ("restore",), ("secrets", "new-key")}
"""Commands that start one, or need none."""
NO_JSON: Final = {
    ("up",),
    ("serve",),
    ("console-link",),
    *((report, "export") for report in ("batches", "coupons", "consumptions", "redemptions")),
    ("loyalty", "members", "export"),
    ("loyalty", "programs", "export"),
}
"""Commands that run until they are stopped, print one line for a browser, or write a report in a format."""
VALUES: Final = {
    "starts_at": "2030-01-01T00:00:00Z",
    "scope": "redeem",
    "rules": "{}",
    "total": "1",
    "key": "1",
    "bound": "1",
    "delivery": "1",
}
"""Valid values of required parameters. The others take any UUID."""


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty directory, with no variable of an installation."""
    for name in [name for name in os.environ if name.startswith("ISSUER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def _commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, TyperGroup):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


def _arguments(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if parameter.required:
            if parameter.param_type_name == "option":
                yield parameter.opts[0]
            yield VALUES.get(parameter.name) or str(uuid4())


def test_every_command_says_first_that_no_issuer_runs_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ISSUER_DATABASE_ULR", "postgresql://127.0.0.1/issuer")
    # CliRunner would make all commands again for each of them.
    root: Any = typer.main.get_command(app)
    walked = dict(_commands(root))
    assert len(walked) > 30
    for words, command in walked.items():
        if words in WITHOUT_INSTALLATION:
            continue
        with pytest.raises(SystemExit) as ended:
            root.main([*words, *_arguments(command)], prog_name="issuer")
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (1, ""), (words, err)
        warning, first, hint = err.splitlines()
        assert warning == "warning: ISSUER_DATABASE_ULR is not a setting; ISSUER_DATABASE_URL is", words
        assert first == f"error: no issuer runs here: there is no data directory {tmp_path / '.issuer'}", words
        assert hint.startswith("hint: start one here with `issuer up`")


def test_in_a_clone_the_hint_names_make_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = Path(__file__).parents[2]
    assert start_hint().startswith("start one here with `issuer up`")
    (tmp_path / "Makefile").write_text("all:\n\ttrue\n")
    assert start_hint().startswith("start one here with `issuer up`")
    monkeypatch.chdir(clone)
    assert start_hint().startswith("start one here with `make up`, or change")


def test_every_command_that_prints_data_prints_json_on_request() -> None:
    without = {
        words
        for words, command in _commands(typer.main.get_command(app))
        if not any("--json" in parameter.opts for parameter in command.params)
    }
    assert without == NO_JSON


def test_serve_does_not_connect_to_a_default_address() -> None:
    done = CliRunner().invoke(app, ["serve"], prog_name="issuer")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: `issuer serve` has no servers: set ISSUER_DATABASE_URL")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / ".issuer")
    directory.acquire()
    assert directory.absence() == f"`issuer up` is still starting on {directory.path}"
    directory.release()
    assert directory.absence() == f"`issuer up` is not running on {directory.path}"


def test_servers_that_the_environment_names_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    urls = {
        "redis_url": "redis://127.0.0.1:1/0",
        "database_url": "postgresql://issuer_api@127.0.0.1:2/issuer",
        "worker_database_url": "postgresql://issuer_worker@127.0.0.1:2/issuer",
        "owner_database_url": "postgresql://issuer_owner@127.0.0.1:2/issuer",
    }
    assert find_installation(load_settings()) is None
    monkeypatch.setenv("ISSUER_OWNER_DATABASE_URL", "postgresql://127.0.0.1:9/other")
    assert find_installation(load_settings()) == load_settings()

    directory = DataDirectory(tmp_path / ".issuer")
    directory.acquire()
    directory.announce(
        RunningInstallation(pid=1, url="", partitions=3, pool_high_water=10, started_at="", default_client=None, **urls)
    )
    # Another installation than the one that runs here.
    assert find_installation(load_settings()) == load_settings()
    monkeypatch.delenv("ISSUER_OWNER_DATABASE_URL")
    # `issuer up` was started with this server, and with a Redis of its own.
    monkeypatch.setenv("ISSUER_DATABASE_URL", urls["database_url"])
    found = find_installation(load_settings())
    assert found is not None
    assert found.partitions == 3
    assert found.redis_url.get_secret_value() == urls["redis_url"]
    assert found.as_owner().database_url.get_secret_value() == urls["owner_database_url"]
    directory.release()
