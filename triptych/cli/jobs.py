"""`triptych jobs`."""

from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Annotated, Final, TypeVar

import typer
from rich.console import Console

from triptych.aio import AsyncClient
from triptych.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT_SECONDS
from triptych.cli.connection import Connection, connecting
from triptych.cli.exit_codes import EPILOG, ExitCode
from triptych.cli.failure import reported_failures
from triptych.cli.interruptible import run
from triptych.cli.job_options import ClusterTarget, JobId
from triptych.cli.job_report import job_json, job_table, jobs_json, jobs_table
from triptych.cli.output_file import check_suffix
from triptych.cli.previews import PreviewDirectory, PreviewFiles
from triptych.cli.progress import ProgressDisplay
from triptych.cli.reporting import Reporting, reporting
from triptych.cli.request_options import Json, Output, Timeout
from triptych.client import Client
from triptych.domain.job import Job, JobState
from triptych.generation import Generation

_SECONDS: Final = 10.0

T = TypeVar("T")

jobs = typer.Typer(
    name="jobs",
    help="What was handed in by `triptych generate --detach`, and goes on whoever watches it.",
    epilog=EPILOG,
    no_args_is_help=True,
)


@jobs.command("list", epilog=EPILOG)
@connecting
def list_jobs(
    states: Annotated[
        list[JobState] | None,
        typer.Option("--state", help="Only these. Repeat it for several."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=1000, metavar="N", help="At most so many, newest first.")
    ] = 20,
    *,
    target: ClusterTarget = DEFAULT_TARGET,
    json: Json = False,
    connected: Connection,
) -> None:
    """List jobs, newest first."""
    with reported_failures(), _client(target, connected) as client:
        found = list(islice(client.jobs(states or (), page_size=limit), limit))
    if json:
        typer.echo(jobs_json(found))
    else:
        Console(highlight=False).print(jobs_table(found))


@jobs.command(epilog=EPILOG)
@connecting
def show(
    job_id: JobId,
    *,
    target: ClusterTarget = DEFAULT_TARGET,
    json: Json = False,
    connected: Connection,
) -> None:
    """Say what is known of a job."""
    with reported_failures(), _client(target, connected) as client:
        job = client.get(job_id)
    _print(job, as_json=json)


@jobs.command(epilog=EPILOG)
@connecting
def cancel(
    job_id: JobId,
    *,
    target: ClusterTarget = DEFAULT_TARGET,
    json: Json = False,
    connected: Connection,
) -> None:
    """Cancel a job at its next step; one that has ended stays as it is."""
    with reported_failures(), _client(target, connected) as client:
        job = client.cancel(job_id)
    if json:
        typer.echo(job_json(job))
    else:
        typer.echo(f"{job.job_id}: {job.state}")


@jobs.command(epilog=EPILOG)
@connecting
def watch(
    job_id: JobId,
    *,
    target: ClusterTarget = DEFAULT_TARGET,
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS,
    preview_dir: PreviewDirectory = None,
    json: Json = False,
    connected: Connection,
) -> None:
    """Watch a job from its beginning to its end; leaving it changes nothing for the job."""
    display = ProgressDisplay(wanted=not json, previews=PreviewFiles(preview_dir))

    async def watched(client: AsyncClient) -> Job:
        async for event in client.watch(job_id, timeout=timeout):
            display.on_event(event)
        return await client.get(job_id)

    job = _attended(watched, target, connected, display)
    if json:
        typer.echo(job_json(job))
    else:
        typer.echo(f"{job.job_id}: {job.state}; `triptych jobs fetch` writes what it drew")


@jobs.command(epilog=EPILOG)
@reporting
@connecting
def fetch(
    job_id: JobId,
    *,
    output: Output,
    target: ClusterTarget = DEFAULT_TARGET,
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS,
    told: Reporting,
    connected: Connection,
) -> None:
    """Write what a job drew, once it is done."""
    display = ProgressDisplay(wanted=not told.as_json, previews=PreviewFiles(None))

    async def fetched(client: AsyncClient) -> Generation:
        job = await client.get(job_id)
        check_suffix(output, job.parameters.media_format)
        generation = await client.fetch(job_id, timeout=timeout, on_event=display.on_event)
        generation.save_all(output)
        return generation

    generation = _attended(fetched, target, connected, display)
    told.report(generation, generation.paths(output))


def _client(target: str, connected: Connection) -> Client:
    credentials, api_key = connected.credentials, connected.api_key
    return Client(target, timeout=_SECONDS, credentials=credentials, api_key=api_key)


def _print(job: Job, *, as_json: bool) -> None:
    if as_json:
        typer.echo(job_json(job))
    else:
        Console(highlight=False).print(job_table(job))


def _attended(
    attend: Callable[[AsyncClient], Coroutine[None, None, T]],
    target: str,
    connected: Connection,
    display: ProgressDisplay,
) -> T:
    """What comes of waiting for a job, which a signal ends without any consequence for the job."""

    async def attending() -> T:
        credentials, api_key = connected.credentials, connected.api_key
        async with AsyncClient(target, credentials=credentials, api_key=api_key) as client:
            return await attend(client)

    with reported_failures(), display:
        try:
            return run(attending())
        except CancelledError:
            typer.echo("triptych: no longer watched; the job goes on", err=True)
            raise typer.Exit(ExitCode.CANCELLED) from None
