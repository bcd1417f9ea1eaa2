"""python -m denoiser_service: the denoising loop. This process holds no model; its rank does."""

import asyncio
from functools import partial

from denoiser_service.rank_group.attached_ranks import AttachedRanks
from denoiser_service.rank_group.generation import RankBounds
from denoiser_service.rank_group.local_ranks import RANK, LocalRanks
from denoiser_service.rank_group.port import RankSource
from denoiser_service.rank_group.supervisor import RankSupervisor
from denoiser_service.service.admission import Admission
from denoiser_service.service.policy import Policy
from denoiser_service.service.replica import DenoiserReplica
from denoiser_service.service.room import Room
from denoiser_service.service.scheduler import StepScheduler
from denoiser_service.service.servicer import DenoiserServicer
from denoiser_service.service.settings import DenoiserSettings
from denoiser_service.service.turns import Turns
from services.domain.settings import split_address
from services.loaded_models.cache_profile import find_profile
from services.model_families import find_family
from services.model_files.checksums import read_checksums
from services.model_files.directory import ModelDirectory
from services.model_files.hub import open_model
from services.model_files.weights import is_weights
from services.model_ports.spec import FamilySpec
from services.observability.logs import get_logger
from services.rpc.process import run_process, run_until_first_ends
from services.rpc.stage_host import StageHost
from services.rpc.store_calls import StoreCalls
from services.tensor_store.opening import open_blob_store
from triptych.domain.model import Stage
from triptych.launcher.fork_launcher import ForkLauncher
from triptych.launcher.launcher import ExecLauncher, Launcher, LauncherName
from triptych.v1 import denoiser_service_pb2_grpc

_log = get_logger(__name__)


async def main(settings: DenoiserSettings) -> None:
    """Serves until a signal."""
    # What the rank would refuse is refused here first, where it is easier to see.
    settings.cluster_secret()
    # Fetched here too: a rank's time to start is for loading.
    directory = await asyncio.to_thread(
        open_model,
        settings.model,
        lambda index: find_family(index).spec.patterns(Stage.DENOISER),
    )
    spec = find_family(directory).spec
    _check_configurations(settings, directory, spec)
    spec.check(directory, Stage.DENOISER)
    find_profile(directory, spec, settings.cache_profile)
    settings.check_ranks(spec.capabilities(directory))
    store = open_blob_store(settings.store)
    bounds = RankBounds(
        start=settings.rank_start_seconds,
        command=settings.command_seconds,
        silence=settings.silence_seconds,
    )
    source = _ranks_of(settings, directory, bounds)
    ranks = RankSupervisor(
        source, degrees=settings.degrees, bounds=bounds, store=lambda: store.identity
    )
    calls = StoreCalls(store)
    room = Room(settings.max_resident_requests, settings.max_resident_bytes)
    scheduler = StepScheduler(
        ranks,
        Admission(room, settings.max_queued_requests, partial(spec.residency, directory)),
        Policy(settings.order, room, settings.max_step_batch),
        Turns(
            ranks,
            calls.release,
            shares_steps=settings.max_step_batch > 1,
            trace_steps=settings.trace_steps,
        ),
        None if settings.checkpoint_steps == "auto" else settings.checkpoint_steps,
    )
    replica = DenoiserReplica(scheduler, ranks, calls)
    host = StageHost(settings, "triptych.v1.DenoiserService", replica, calls)
    servicer = DenoiserServicer(replica)
    denoiser_service_pb2_grpc.add_DenoiserServiceServicer_to_server(servicer, host.server.grpc)

    async def on_change(ready: bool) -> None:
        await host.server.set_serving(serving=ready and not scheduler.draining)

    # Serving is for the ranks to say, once they are ready.
    await run_until_first_ends(host.run(serving=False), ranks.run(on_change), scheduler.run())


def _check_configurations(
    settings: DenoiserSettings, directory: ModelDirectory, spec: FamilySpec
) -> None:
    """Compares them with the model's manifest; weights are for those to read who load them."""
    checksums = read_checksums(settings.model_manifest)
    if checksums is not None:
        files = spec.loaded_files(directory, Stage.DENOISER)
        checksums.check(directory.path, [file for file in files if not is_weights(file)])


def _ranks_of(
    settings: DenoiserSettings, directory: ModelDirectory, bounds: RankBounds
) -> RankSource:
    if settings.rank_listen is None:
        return LocalRanks(
            settings.rank_flags(directory),
            settings.degrees.ranks,
            bounds.beat,
            _launcher_of(settings),
        )
    host, port = split_address("rank_listen", settings.rank_listen)
    return AttachedRanks(host, port, settings.cluster_secret(), settings.degrees, bounds.beat)


def _launcher_of(settings: DenoiserSettings) -> Launcher:
    if settings.launcher is LauncherName.EXEC:
        return ExecLauncher()
    return ForkLauncher([RANK], lambda why: _log.warning("fork server lost", cause=why))


if __name__ == "__main__":
    run_process("denoiser", DenoiserSettings, main)
