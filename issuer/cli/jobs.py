"""`issuer jobs`: list, show and cancel generation jobs. Needs Postgres only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID

import typer

from issuer.cli.options import AS_JSON
from issuer.cli.output import InputError, print_fields, print_json, print_list, run_with_postgres
from issuer.cli.tables import shown_time
from issuer.paging import MAX_LIMIT, Page, all_items

if TYPE_CHECKING:
    from issuer.generating.jobs import Job
    from issuer.storage.postgres import Pool

commands = typer.Typer(help="List, show and cancel generation jobs.", no_args_is_help=True)

JOB = typer.Argument(..., metavar="JOB", help="Id of the job.")


def register(app: typer.Typer) -> None:
    app.add_typer(commands, name="jobs")


@commands.command("list")
def list_command(
    everything: bool = typer.Option(False, "--all", help="Include finished jobs."), as_json: bool = AS_JSON
) -> None:
    """List the jobs that are not finished, newest first."""
    from issuer.generating.job_control import list_jobs

    async def work(postgres: Pool) -> None:
        async def page(cursor: str | None) -> Page[Job]:
            return await list_jobs(postgres, finished=everything, limit=MAX_LIMIT, cursor=cursor)

        await print_list(
            all_items(page),
            as_json=as_json,
            to_json=lambda job: job.to_json(),
            headers=("id", "state", "made", "count", "created", "batch", "client", "problem"),
            row=lambda job: (
                str(job.id), job.state.value, job.made, job.request.count, shown_time(job.created_at),
                job.batch_name, job.client_name or str(job.request.client_id), job.problem or "-",
            ),
            empty="no jobs are unfinished; --all lists the others" if not everything else "no jobs yet",
        )  # fmt: skip

    run_with_postgres(work)


@commands.command()
def show(job: UUID = JOB, as_json: bool = AS_JSON) -> None:
    """Show a job."""
    from issuer.generating.jobs import find_job

    _show_one(lambda postgres: find_job(postgres, job), as_json)


@commands.command()
def cancel(job: UUID = JOB, as_json: bool = AS_JSON) -> None:
    """Cancel a job. The codes that it made stay in the batch."""
    from issuer.access.audit import cli_actor
    from issuer.generating.job_control import cancel_job

    _show_one(lambda postgres: cancel_job(postgres, job, actor=cli_actor()), as_json)


def _show_one(work: Callable[[Pool], Awaitable[Job]], as_json: bool) -> None:
    """Run the work and print the job; a refusal that the operator can correct is an InputError."""
    from issuer.generating.job_control import JobFinishedError
    from issuer.generating.jobs import JobNotFoundError

    async def checked(postgres: Pool) -> Job:
        try:
            return await work(postgres)
        except (JobNotFoundError, JobFinishedError) as error:
            raise InputError(str(error)) from error

    job = run_with_postgres(checked)
    if as_json:
        print_json(job.to_json())
        return
    print_fields(
        ("job", str(job.id)),
        ("state", job.state.value),
        ("codes", f"{job.made:,} of {job.request.count:,}"),
        ("batch", f"{job.request.batch_id} {job.batch_name}"),
        ("client", f"{job.request.client_id} {job.client_name or ''}".rstrip()),
        ("problem", job.problem),
    )
