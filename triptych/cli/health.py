"""`triptych health`."""

from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from triptych.channel import channel_options
from triptych.cli.connection import Connection, connecting
from triptych.cli.exit_codes import ExitCode
from triptych.status import failure_of

_SECONDS = 5.0


@connecting
def health(
    target: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="Any of a cluster's processes.")
    ],
    *,
    connected: Connection,
) -> None:
    """Ask a process whether it serves, for probes: exit code 0 if it does, 4 if not."""
    options = channel_options(target)
    channel = (
        grpc.insecure_channel(target, options)
        if connected.credentials is None
        else grpc.secure_channel(target, connected.credentials, options)
    )
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
        except grpc.RpcError as error:
            typer.echo(f"triptych: {failure_of(error, target).message}", err=True)
            raise typer.Exit(ExitCode.UNAVAILABLE) from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    typer.echo(status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(ExitCode.UNAVAILABLE)
