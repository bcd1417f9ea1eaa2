"""`triptych download`."""

from pathlib import Path
from typing import Annotated

import typer

from triptych.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT_SECONDS
from triptych.cli.connection import Connection, connecting
from triptych.cli.failure import reported_failures
from triptych.cli.request_options import Output, Timeout
from triptych.client import Client


@connecting
def download(
    artifact_id: Annotated[
        str,
        typer.Argument(metavar="ARTIFACT", help="Its id, as `triptych generate --json` has it."),
    ],
    *,
    output: Output,
    target: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Cluster to ask.")
    ] = DEFAULT_TARGET,
    timeout: Timeout = DEFAULT_TIMEOUT_SECONDS,
    connected: Connection,
) -> None:
    """Download a result again, while the cluster keeps it."""
    credentials, api_key = connected.credentials, connected.api_key
    client = Client(target, timeout=timeout, credentials=credentials, api_key=api_key)
    with reported_failures(), client:
        path: Path = client.download(artifact_id).save(output)
    typer.echo(str(path))
