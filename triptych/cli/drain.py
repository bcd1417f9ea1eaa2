"""`triptych drain`."""

from pathlib import Path
from typing import Annotated

import grpc
import typer
from google.protobuf.message import Message

from triptych.channel import channel_options
from triptych.cli.connection import Connection, connecting
from triptych.cli.failure import reported_failures
from triptych.domain.call_seal import SIGNATURE_METADATA, CallSeal
from triptych.errors import error_from
from triptych.status import failure_of
from triptych.v1 import stage_service_pb2, stage_service_pb2_grpc

_SECONDS = 10.0
_METHOD = "/triptych.v1.StageService/Drain"


@connecting
def drain(
    target: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="An encoder, a denoiser or a VAE.")
    ],
    cluster_secret_file: Annotated[
        Path, typer.Option(metavar="FILE", help="File with the cluster's secret.")
    ],
    *,
    connected: Connection,
) -> None:
    """Have a stage take no further requests; it finishes those it has, and stays."""
    options = channel_options(target)
    with reported_failures():
        seal = CallSeal(cluster_secret_file.read_text().strip())
        channel = (
            grpc.insecure_channel(target, options)
            if connected.credentials is None
            else grpc.secure_channel(target, connected.credentials, options)
        )
        with channel:
            left = _drain(stage_service_pb2_grpc.StageServiceStub(channel), seal, target)
    typer.echo(f"draining; {left} requests are left")


def _drain(stage: stage_service_pb2_grpc.StageServiceStub, seal: CallSeal, target: str) -> int:
    try:
        here = stage.GetCapacity(stage_service_pb2.GetCapacityRequest(), timeout=_SECONDS)
        request = stage_service_pb2.DrainRequest(instance_id=here.instance_id)
        metadata = ((SIGNATURE_METADATA, _signed(seal, request)),)
        return stage.Drain(request, timeout=_SECONDS, metadata=metadata).running_requests
    except grpc.RpcError as error:
        raise error_from(failure_of(error, target)) from error


def _signed(seal: CallSeal, request: Message) -> str:
    return seal.sign(_METHOD, request.SerializeToString(deterministic=True))
