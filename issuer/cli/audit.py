"""`issuer audit`: verify the chain of the audit log, print its head. Needs Postgres only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from issuer.cli.options import AS_JSON
from issuer.cli.output import FAILED, InputError, print_json, run_with_postgres

if TYPE_CHECKING:
    from issuer.access.audit_chain import AuditHead, Verification
    from issuer.storage.postgres import Pool

commands = typer.Typer(help="Verify that the audit log is whole.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="audit")


@commands.command()
def verify(
    head: str | None = typer.Option(
        None, metavar="ID:HASH", help="A head that was printed or logged before: shows whether entries were cut off."
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Compute the hash of every entry again. Exit code 1, and the first broken entry, if the log was changed."""
    from issuer.access.audit_chain import InvalidAuditHeadError, parse_head
    from issuer.access.audit_chain import verify as verify_chain

    async def work(postgres: Pool) -> Verification:
        try:
            return await verify_chain(postgres, None if head is None else parse_head(head))
        except InvalidAuditHeadError as error:
            raise InputError(str(error)) from error

    verified = run_with_postgres(work)
    if as_json:
        print_json(
            {
                "entries": verified.entries,
                "removed": str(verified.removed),
                "head": str(verified.newest),
                "fault": verified.fault,
            }
        )
    elif verified.fault is None:
        typer.echo(f"{verified.entries} entries are whole, {verified.removed.id} were removed; head {verified.newest}")
    else:
        typer.echo(f"the audit log is broken: {verified.fault}; {verified.entries} entries before are whole")
    if verified.fault is not None:
        raise typer.Exit(FAILED)


@commands.command()
def head(as_json: bool = AS_JSON) -> None:
    """Print the head: id and hash of the newest entry. Keep it outside of this database."""
    from issuer.access.audit_chain import read_head

    async def work(postgres: Pool) -> AuditHead:
        return await read_head(postgres)

    newest = run_with_postgres(work)
    if as_json:
        print_json({"id": newest.id, "hash": newest.hash.hex()})
    else:
        typer.echo(str(newest))
