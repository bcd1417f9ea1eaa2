"""A rank: the process that holds the model and executes the supervisor's commands.

Run as `python -m denoiser_service.rank`. It ends when its channel does, however the supervisor
ended.
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from datetime import timedelta
from functools import partial
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from denoiser_service.rank.channel import RankChannel
from denoiser_service.rank.commands import RankReady
from denoiser_service.rank.executor import RankExecutor
from denoiser_service.rank.handshake import connected, introduced
from denoiser_service.rank.heartbeat import Heartbeat
from denoiser_service.rank.parallel.mesh import RankMesh
from denoiser_service.rank.process_group import RankEnvironment, agreed_number, joined, own_device
from denoiser_service.rank.stage import DenoiseStage
from services.domain.settings import (
    MAX_SECONDS,
    DenoisingSettings,
    Endpoint,
    Seconds,
    split_address,
)
from services.domain.tensor_ref import Seal
from services.loaded_models.loading import load_denoiser
from services.model_files.checksums import read_checksums
from services.observability.exposition import traced
from services.observability.logs import configure, get_logger
from services.rpc.process import EXIT_CONFIGURATION
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.kernels import set_kernels
from services.torch_setup.runtime import set_up_torch
from triptych.domain.errors import ConfigurationError, StoreFull
from triptych.domain.model import LoadedModel
from triptych.launcher.parentage import follow_parent

EXIT_FAILED = 1

_log = get_logger(__name__)


class RankSettings(DenoisingSettings):
    """Flags, or TRIPTYCH_RANK_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_RANK_")

    channel_fd: Annotated[int, Field(ge=0)] | None = Field(
        None, description="inherited descriptor of a stream socket to the supervisor"
    )
    supervisor: str | None = Field(
        None, description="host:port of a supervisor that did not start this rank"
    )
    supervisor_seconds: Annotated[float, Field(ge=0, le=MAX_SECONDS)] = Field(
        60.0, description="how long to try to connect there"
    )
    rendezvous_fd: Annotated[int, Field(ge=0)] | None = Field(
        None, description="inherited descriptor of the socket at which the first rank meets others"
    )
    otlp_endpoint: Endpoint | None = Field(
        None, description="collector to push traces to, as the denoiser's own"
    )
    beat_seconds: Seconds = Field(1.0, description="how often the rank says that it is alive")
    collective_seconds: Seconds = Field(
        300.0, description="how long the ranks of a group may wait for one another"
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the rank until the supervisor is gone; returns the process's exit code."""
    settings = RankSettings.read(arguments)
    configure("rank", settings.log_level, settings.log_format)
    # The terminal sends Ctrl-C to every process; when a rank ends is its supervisor's to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if settings.exit_with_parent:
        follow_parent(settings.exit_with_parent)
    try:
        return _run(settings)
    except ConfigurationError as error:
        sys.stderr.write(f"rank: {error}\n")
        return EXIT_CONFIGURATION
    except ConnectionError as error:
        _log.warning("channel lost", cause=str(error))
        return EXIT_FAILED


def _run(settings: RankSettings) -> int:
    if (settings.channel_fd is None) == (settings.supervisor is None):
        raise ConfigurationError("channel_fd, supervisor: exactly one of them is needed")
    environment, secret = RankEnvironment(), settings.cluster_secret()
    environment.check()
    with ExitStack() as exits:
        # Its spans all have parents.
        exits.enter_context(traced("rank", otlp_endpoint=settings.otlp_endpoint, ratio=0))
        inherited = settings.channel_fd
        connection = None if inherited is None else exits.enter_context(_inherited(inherited))
        # Before the model: a store that cannot be used should not cost minutes of loading, nor
        # should peers or a supervisor that cannot be reached.
        store = exits.enter_context(
            closing(
                open_store(
                    settings.store, seal=Seal(secret), ttl_seconds=settings.tensor_ttl_seconds
                )
            )
        )
        exits.enter_context(
            joined(
                environment,
                own_device(settings.device, environment),
                seconds=settings.collective_seconds,
                rendezvous_fd=settings.rendezvous_fd,
            )
        )
        beat_seconds = settings.beat_seconds
        if connection is None:
            connection, beat_seconds = _attached(settings, environment, secret)
            exits.enter_context(connection)
        loaded, stage = _loaded_stage(settings, environment, store)
        executor = RankExecutor(stage, alone=environment.world_size == 1, number=environment.rank)
        channel = RankChannel(connection)
        ready = RankReady(loaded=loaded, tensor_store=store.identity, pid=os.getpid())
        channel.send(ready)
        with Heartbeat(channel, beat_seconds):
            sound = executor.serve(
                channel, idle=partial(_swept, store), idle_seconds=settings.sweep_seconds
            )
        # Whoever started a rank elsewhere starts only those again that failed.
        return 0 if sound and inherited is not None else EXIT_FAILED


def _loaded_stage(
    settings: RankSettings, environment: RankEnvironment, store: TensorStore
) -> tuple[LoadedModel, DenoiseStage]:
    set_up_torch(settings.threads)
    device = own_device(settings.device, environment)
    source = (settings.model, settings.model_name, settings.dtype, device)
    checksums = read_checksums(settings.model_manifest)
    model = load_denoiser(*source, settings.cache_profile, checksums=checksums)
    set_kernels(
        model.model.components, settings.attention_backend, compiled=settings.compile_blocks
    )
    mesh = None
    if environment.world_size > 1:
        mesh = RankMesh.build(settings.degrees, timedelta(seconds=settings.collective_seconds))
    rank = environment.rank
    return model.loaded, DenoiseStage(model, store, stores=rank == 0, mesh=mesh, number=rank)


def _inherited(descriptor: int) -> socket.socket:
    try:
        # Nothing that a library starts may hold the channel open after this process.
        os.set_inheritable(descriptor, False)
        # A duplicate: the inherited descriptor closes with the process itself, so that a supervisor
        # that sees the channel's end can read the exit code as well.
        return socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise ConfigurationError(f"channel_fd: {descriptor} is not a socket: {error}") from error


def _attached(
    settings: RankSettings, environment: RankEnvironment, secret: SecretStr
) -> tuple[socket.socket, float]:
    """A connection to a supervisor elsewhere, and how often it wants to hear of this rank."""
    assert settings.supervisor is not None
    host, port = split_address("supervisor", settings.supervisor)
    connection = connected(host, port, settings.supervisor_seconds)
    try:
        group = agreed_number(environment)
        welcome = introduced(connection, secret, environment.rank, settings.degrees, group)
    except BaseException:
        # Whatever ends this, Ctrl-C too: the connection is nobody's yet.
        connection.close()
        raise
    return connection, welcome.beat_seconds


def _swept(store: TensorStore) -> None:
    """Gives memory back that the store kept for the next tensors, now or next time."""
    with suppress(StoreFull):
        store.sweep()
