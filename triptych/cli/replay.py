"""`triptych replay`."""

import json as json_text
import re
from pathlib import Path
from typing import Annotated, Final

import typer

from triptych.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT_SECONDS
from triptych.cli.connection import Connection, connecting
from triptych.cli.exit_codes import ExitCode
from triptych.cli.failure import reported_failures
from triptych.cli.job_options import ClusterTarget
from triptych.cli.request_options import Json, Timeout
from triptych.client import Client
from triptych.domain.errors import InvalidRequest
from triptych.domain.generation import RequestOptions
from triptych.domain.generation_result import GenerationResult
from triptych.domain.job import JobState
from triptych.replay import differences, options_of, read_images, read_receipt

_JOB: Final = re.compile(r"[0-9a-f]{32}")


@connecting
def replay(
    source: Annotated[
        str,
        typer.Argument(
            metavar="JOB|FILE",
            help="A job that succeeded, or the file that --receipt wrote of it.",
        ),
    ],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            exists=True,
            dir_okay=False,
            help="An input picture of the job, in any order. Repeat it for several.",
        ),
    ] = None,
    *,
    target: ClusterTarget = DEFAULT_TARGET,
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS,
    json: Json = False,
    connected: Connection,
) -> None:
    """Draw a result again, and say whether it has the same bytes, or else what differs.

    Exit code 0 says that every byte is the same, 1 that some are not.
    """
    credentials, api_key = connected.credentials, connected.api_key
    client = Client(target, timeout=timeout, credentials=credentials, api_key=api_key)
    with reported_failures(), client:
        before = _result(client, source)
        options = _options(before, images or [])
        after = client.generate(before.parameters.prompt, **options)
    found = differences(before, after)
    if json:
        typer.echo(json_text.dumps({"same": not found, "differences": found}))
    else:
        typer.echo("\n".join(found) or "the same bytes")
    if found:
        raise typer.Exit(ExitCode.UNEXPECTED)


def _result(client: Client, source: str) -> GenerationResult:
    if not _JOB.fullmatch(source):
        try:
            return read_receipt(Path(source).read_text())
        except (OSError, UnicodeDecodeError, InvalidRequest) as error:
            raise typer.BadParameter(str(error), param_hint="JOB|FILE") from error
    job = client.get(source)
    if job.state is not JobState.SUCCEEDED or job.result is None:
        raise typer.BadParameter(f"the job is {job.state}", param_hint="JOB|FILE")
    return job.result


def _options(result: GenerationResult, images: list[Path]) -> RequestOptions:
    try:
        return options_of(result.parameters, read_images(images))
    except (OSError, InvalidRequest) as error:
        raise typer.BadParameter(str(error), param_hint="--image") from error
