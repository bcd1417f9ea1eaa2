"""A rank: the process that holds the model and executes the supervisor's commands.

Run as `python -m denoiser_service.rank`. It ends when its channel does, however the supervisor
ended.
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from denoiser_service.channel import RankChannel
from denoiser_service.commands import Failed, RankReady
from denoiser_service.executor import RankExecutor
from denoiser_service.heartbeat import Heartbeat
from denoiser_service.process_group import joined
from denoiser_service.rank_environment import RankEnvironment
from denoiser_service.stage import DenoiseStage
from services.domain.errors import ConfigurationError
from services.domain.settings import DenoisingSettings
from services.domain.tensor_ref import Seal
from services.model_api.kernels import set_kernels
from services.model_api.runtime import set_up_torch
from services.model_families.loading import load_denoiser
from services.observability.logs import configure, get_logger
from services.rpc.process import EXIT_CONFIGURATION, follow_parent
from services.tensor_store.tensor_store import TensorStore, open_store

EXIT_FAILED = 1

_log = get_logger(__name__)


class RankSettings(DenoisingSettings):
    """Flags, or TRIPTYCH_RANK_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_RANK_")

    channel_fd: Annotated[int, Field(ge=0)] = Field(
        description="inherited descriptor of a stream socket to the supervisor"
    )
    rendezvous_fd: Annotated[int, Field(ge=0)] | None = Field(
        None, description="inherited descriptor of the socket at which the first rank meets others"
    )
    beat_seconds: Annotated[float, Field(gt=0)] = Field(
        1.0, description="how often the rank says that it is alive"
    )
    collective_seconds: Annotated[float, Field(gt=0)] = Field(
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
        with _connection(settings.channel_fd) as connection:
            return _run(settings, RankChannel(connection))
    except ConfigurationError as error:
        sys.stderr.write(f"rank: {error}\n")
        return EXIT_CONFIGURATION
    except ConnectionError as error:
        _log.warning("channel lost", cause=str(error))
        return EXIT_FAILED


def _connection(descriptor: int) -> socket.socket:
    try:
        # Nothing that a library starts may hold the channel open after this process.
        os.set_inheritable(descriptor, False)
        # A duplicate: the inherited descriptor closes with the process itself, so that a supervisor
        # that sees the channel's end can read the exit code as well.
        return socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise ConfigurationError(f"channel_fd: {descriptor} is not a socket: {error}") from error


def _run(settings: RankSettings, channel: RankChannel) -> int:
    environment = RankEnvironment()
    seal = Seal(settings.cluster_secret())
    # Before the model: a store that cannot be used should not cost minutes of loading, nor should
    # peers that cannot be reached.
    with (
        closing(
            open_store(settings.store, seal=seal, ttl_seconds=settings.tensor_ttl_seconds)
        ) as store,
        joined(
            environment,
            settings.device,
            seconds=settings.collective_seconds,
            rendezvous_fd=settings.rendezvous_fd,
        ),
    ):
        set_up_torch(settings.threads)
        told = (settings.model, settings.model_name, settings.dtype, settings.device)
        model = load_denoiser(*told, settings.cache_profile)
        set_kernels(
            model.model.components, settings.attention_backend, compiled=settings.compile_blocks
        )
        stage = DenoiseStage(model, store, stores=environment.rank == 0)
        executor = RankExecutor(stage, alone=environment.world_size == 1)
        ready = RankReady(loaded=model.loaded, tensor_store=store.identity, pid=os.getpid())
        channel.send(ready)
        with Heartbeat(channel, settings.beat_seconds):
            return _serve(channel, executor, store, settings)


def _serve(
    channel: RankChannel, executor: RankExecutor, store: TensorStore, settings: RankSettings
) -> int:
    while True:
        while not channel.wait(settings.sweep_seconds):
            # Idle: memory that the store kept for the next tensors goes back.
            store.sweep()
        command = channel.receive()
        if command is None:
            return 0
        reply = executor.execute(command)
        channel.send(reply)
        if isinstance(reply, Failed) and reply.fatal:
            return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
