"""/api/v1/batches/{batch_id}/codes/generate and …/jobs/{job_id}: generate codes, show the progress of a job."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

from starlette.responses import Response

from issuer.batches.store import BatchEndedError, find_batch
from issuer.clients.registry import default_client
from issuer.contract.outcomes import Outcome
from issuer.generating.code_format import FIELDS, CodeFormatError, parse_code_format
from issuer.generating.job_runner import finish_job
from issuer.generating.jobs import Job, JobState, find_job, request_codes
from issuer.generating.request import GenerationRequest, find_only_client
from issuer.http.fields import id_field, json_object, json_response, path_id
from issuer.http.naming import CLIENT_FIELDS, named_client
from issuer.http.operations import Operation, RequestContext
from issuer.http.problems.problem import ProblemError, outcome_problem
from issuer.loading.preload import TRANSIENT_ERRORS

MAX_CODES_PER_REQUEST: Final = 10_000
"""Codes generated within the request, which takes well under a second. Larger requests are left to the worker."""


async def post_generate(context: RequestContext) -> Response:
    """Generate codes: 201 once all are in the batch, 202 if the worker still has to generate some or all of them."""
    batch_id = path_id(context.request, "batch_id")
    values = await json_object(context.request, ("count", *CLIENT_FIELDS, "job_id", *FIELDS))
    job_id = id_field(values, "job_id")
    stores = context.services.stores
    try:
        generation = await parse_generation(context, batch_id, values)

        async def show(job: Job) -> Response:
            response = json_response(_show(job, generation), 201 if job.state is JobState.DONE else 202)
            response.headers["location"] = f"/api/v1/batches/{batch_id}/jobs/{job.id}"
            return response

        # The act is to accept the job. What is kept then is replaced once more is known.
        job = await request_codes(stores, generation, job_id=job_id, bounded=True, act=context.act(show))
    except BatchEndedError as error:
        raise outcome_problem(Outcome.ENDED) from error
    if generation.count <= MAX_CODES_PER_REQUEST and not job.finished:
        job = await generate_now(context, job)
    if job.state is JobState.FAILED:
        await context.idempotency.forget()
        raise ProblemError(
            400, job.problem or "the codes cannot be made", "load_refused", members={"job_id": str(job.id)}
        )
    response = await show(job)
    await context.idempotency.replace(response)
    return response


async def get_job(context: RequestContext) -> Response:
    batch_id, job_id = path_id(context.request, "batch_id"), path_id(context.request, "job_id")
    job = await find_job(
        context.services.stores.postgres, job_id, batch_id=batch_id, client_id=context.caller.client_id
    )
    return json_response(_show(job, job.request))


async def parse_generation(context: RequestContext, batch_id: UUID, values: dict[str, Any]) -> GenerationRequest:
    """Parse the body. For a bound key, the batches of other clients do not exist."""
    # In a thread: folding a thousand words takes some ms.
    code_format = await asyncio.to_thread(parse_code_format, {name: values[name] for name in FIELDS if name in values})
    count, caller = values.get("count"), context.caller
    if isinstance(count, bool) or not isinstance(count, int):
        raise CodeFormatError("count", "must be a whole number")
    postgres = context.services.stores.postgres
    await find_batch(postgres, batch_id, client_id=caller.client_id)
    client_id = (
        await named_client(context, values)
        or await find_only_client(postgres, batch_id)
        or await default_client(context.services.stores)
    )
    if client_id is None:
        raise CodeFormatError("client_id", "is needed: the batch has no client yet")
    return GenerationRequest(batch_id, client_id, code_format, count, caller.actor)


async def generate_now(context: RequestContext, job: Job) -> Job:
    """Run the job. If there is no slot, a store is unavailable or the time is up, return it unfinished: the worker
    continues it.
    """
    stores, loads, tenant = context.services.stores, context.services.slots.loads, context.caller.tenant
    if loads.try_take(tenant) is not None:
        return job
    try:
        with suppress(*TRANSIENT_ERRORS, TimeoutError):
            async with asyncio.timeout(stores.settings.postgres_timeout_s):
                return await finish_job(stores, job.id)
    finally:
        loads.release(tenant)
    return await find_job(stores.postgres, job.id)


def _show(job: Job, generation: GenerationRequest) -> dict[str, Any]:
    return {**job.to_json(), "warning": generation.code_format.check_space(generation.count)}


OPERATIONS = (
    Operation("POST", "/api/v1/batches/{batch_id}/codes/generate", post_generate),
    Operation("GET", "/api/v1/batches/{batch_id}/jobs/{job_id}", get_job),
)
