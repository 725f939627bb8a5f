"""`issuer status`: what runs, since when, on which addresses, and whether codes are issued."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from issuer.cli.options import AS_JSON
from issuer.cli.output import FAILED, print_fields, print_json, process_settings, run_plain

if TYPE_CHECKING:
    from issuer.recovery.status import Status
    from issuer.settings import Settings


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(as_json: bool = AS_JSON) -> None:
    """Show what runs, since when and where, the backlog, and what is open.

    Exit code 0: codes are issued and recorded; 1: they are not, and the reason is printed, or no issuer runs here.
    """
    from issuer.embedded.datadir import DataDirectory
    from issuer.recovery.status import read_status

    settings = process_settings()
    found = run_plain(lambda: read_status(settings.as_owner()), settings=settings)
    fields = _fields(found, settings)
    running = DataDirectory(settings.data_dir).running()
    if running is not None and running.redis_url == settings.redis_url.get_secret_value():
        up = {"url": running.url, "pid": running.pid, "data_dir": str(DataDirectory(settings.data_dir).path)}
        fields |= {"up": up, "since": running.started_at}
    if as_json:
        print_json(fields)
    else:
        _print(found, fields)
    if found.problems:
        raise typer.Exit(FAILED)


def _fields(found: Status, settings: Settings) -> dict[str, Any]:
    from issuer.instants import show_instant
    from issuer.logs import masked

    addresses = {
        "redis_address": masked(settings.redis_url.get_secret_value()),
        "postgres_address": masked(settings.database_url.get_secret_value()),
    }
    since = None if found.since is None else show_instant(found.since)
    return {"ready": not found.problems} | asdict(found) | addresses | {"since": since, "up": None}


def _print(found: Status, fields: dict[str, Any]) -> None:
    def count(processes: Any) -> str:
        if processes is None:
            return "?"
        return f"{len(processes)} process{'' if len(processes) == 1 else 'es'}" if processes else "none"

    up = fields["up"]
    opened = found.open or {}
    print_fields(
        ("state", "ready" if fields["ready"] else "not ready"),
        ("since", fields["since"] or "?"),
        ("issuer up", f"process {up['pid']} on {up['data_dir']}" if up else None),
        ("API", f"{up['url']}  {count(found.api_processes)}" if up else count(found.api_processes)),
        ("workers", count(found.workers)),
        ("Redis", f"{found.redis or '?'}  {fields['redis_address']}"),
        ("Postgres", f"{found.postgres or '?'}  {fields['postgres_address']}"),
        ("backlog", "?" if found.backlog is None else f"{found.backlog:,}"),
        ("open", ", ".join(f"{number:,} {name}" for name, number in opened.items()) or "?"),
        *(("problem", problem) for problem in found.problems),
    )
