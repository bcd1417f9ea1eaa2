"""python -m services.fused: the whole cluster in one process, no sockets between the stages."""

import asyncio
import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from denoiser_service.rank.commands import RankReady
from denoiser_service.rank.executor import RankExecutor
from denoiser_service.rank.stage import DenoiseStage
from denoiser_service.rank_group.thread_rank import ThreadRankGroup
from denoiser_service.service.admission import Admission
from denoiser_service.service.policy import Policy
from denoiser_service.service.replica import DenoiserReplica
from denoiser_service.service.room import Room
from denoiser_service.service.scheduler import StepScheduler
from denoiser_service.service.turns import Turns
from encoder_service.replica import EncoderReplica
from encoder_service.stage import EncodeStage
from services.domain.model_source import HubModel
from services.domain.tensor_ref import Seal
from services.fused.settings import FusedSettings
from services.gateway.app import GatewayApp
from services.loaded_models.conditioning_encoder import conditioning_encoder
from services.loaded_models.loading import load_denoiser, load_encoder, load_vae
from services.model_families import find_family
from services.model_files.checksums import read_checksums
from services.model_files.hub import open_model
from services.observability.fullness import watched_fullness
from services.observability.load import watched_load
from services.rpc.process import run_process, run_until_first_ends
from services.rpc.store_calls import StoreCalls
from services.rpc.sweeper import sweep_forever
from services.rpc.worker import StageWorker
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.device_errors import breaks_device
from services.torch_setup.kernels import set_kernels
from services.torch_setup.runtime import hold_threads, set_up_torch
from triptych.domain.deadline import Deadline
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Stage
from vae_service.preview_stage import PreviewStage
from vae_service.replica import VaeReplica
from vae_service.stage import VaeStage
from vae_service.tiling import set_pieces


@dataclass(frozen=True, slots=True)
class _Model:
    """One model's stages."""

    encoder: EncoderReplica
    denoiser: DenoiserReplica
    vae: VaeReplica
    scheduler: StepScheduler
    ranks: ThreadRankGroup
    prompts: EncodeStage
    previews: PreviewStage

    async def warm_up(self, deadline: Deadline) -> None:
        """Has its threads encode and decode once."""
        await self.encoder.warm_up(self.prompts, deadline)
        await self.vae.warm_up(self.previews, deadline)


async def main(settings: FusedSettings) -> None:
    """Serves until a signal."""
    set_up_torch(settings.threads)
    # Nobody outside this process ever sees a reference, so nobody else needs the secret.
    seal = Seal(SecretStr(secrets.token_hex(32)))
    store = open_store("memory:", seal=seal, ttl_seconds=settings.tensor_ttl_seconds)
    store.open_cache(settings.conditioning_cache_bytes, settings.conditioning_cache_idle_seconds)
    calls = StoreCalls(store)
    none = (None,) * len(settings.model)
    profiles, manifests = settings.cache_profile or none, settings.model_manifest or none
    models = [
        await asyncio.to_thread(_load, source, profile, manifest, settings, store, calls)
        for source, profile, manifest in zip(settings.model, profiles, manifests, strict=True)
    ]
    _check_names([each.encoder.load().models[0].model.name for each in models], settings)
    app = GatewayApp(
        settings,
        [each.encoder for each in models],
        [each.denoiser for each in models],
        [each.vae for each in models],
    )
    for each in models:
        await each.warm_up(Deadline.after(settings.command_seconds))
    stages = [stage for each in models for stage in (each.encoder, each.vae)]
    try:
        with ExitStack() as exits:
            exits.enter_context(watched_fullness(store))
            for each in models:
                for replica in (each.encoder, each.denoiser, each.vae):
                    exits.enter_context(watched_load(replica.load))
            await run_until_first_ends(
                app.run(),
                *(app.server.fail_when(stage.broken()) for stage in stages),
                sweep_forever(calls, settings.sweep_seconds),
                *(each.scheduler.run() for each in models),
                *(each.ranks.run() for each in models),
            )
    finally:
        for each in models:
            await asyncio.gather(each.encoder.close(), each.denoiser.close(), each.vae.close())
        calls.close()
        store.close()


def _check_names(names: Sequence[str], settings: FusedSettings) -> None:
    for number, name in enumerate(names):
        if (first := names.index(name)) < number:
            raise ConfigurationError(
                f"model: {settings.model[first]} and {settings.model[number]} are both called"
                f" {name}; give one another name, in its triptych.json"
            )


def _load(
    source: Path | HubModel,
    cache_profile: Path | None,
    manifest: Path | None,
    settings: FusedSettings,
    store: TensorStore,
    calls: StoreCalls,
) -> _Model:
    told = (source, None, settings.dtype, settings.device)
    checksums = read_checksums(manifest)
    encoder = load_encoder(*told, checksums=checksums)
    vae = load_vae(*told, checksums=checksums)
    tile_size = set_pieces(vae.model, settings.tiles, slicing=settings.slicing)
    prompt_encoder = conditioning_encoder(store.cache, encoder, settings.device)
    image_encoder = conditioning_encoder(
        store.cache, vae, settings.device, settings.tiles, settings.slicing
    )
    denoiser = load_denoiser(*told, cache_profile, checksums=checksums)
    set_kernels(
        denoiser.model.components, settings.attention_backend, compiled=settings.compile_blocks
    )
    ready = RankReady(loaded=denoiser.loaded, tensor_store=store.identity, pid=os.getpid())
    ranks = ThreadRankGroup(RankExecutor(DenoiseStage(denoiser, store)), ready, hold_threads)
    directory = open_model(source, lambda index: find_family(index).spec.patterns(Stage.DENOISER))
    queue = settings.max_queued_requests
    room = Room(settings.max_resident_requests, settings.max_resident_bytes)
    scheduler = StepScheduler(
        ranks,
        Admission(room, queue, partial(find_family(directory).spec.residency, directory)),
        Policy(settings.order, room, settings.max_step_batch),
        Turns(
            ranks,
            calls.release,
            shares_steps=settings.max_step_batch > 1,
            trace_steps=settings.trace_steps,
        ),
    )
    encodes = EncoderReplica(calls, _worker(Stage.ENCODER, settings))
    prompts, previews = EncodeStage(encoder, store, prompt_encoder), PreviewStage(vae, store)
    encodes.hold(prompts, (encoder.loaded,))
    decodes = VaeReplica(calls, _worker(Stage.VAE, settings))
    decodes.hold(VaeStage(vae, store, tile_size, image_encoder), previews, (vae.loaded,))
    denoises = DenoiserReplica(scheduler, ranks, calls)
    return _Model(encodes, denoises, decodes, scheduler, ranks, prompts, previews)


def _worker(stage: Stage, settings: FusedSettings) -> StageWorker:
    return StageWorker(
        stage,
        settings.max_queued_requests,
        hold_threads,
        command_seconds=settings.command_seconds,
        breaks=breaks_device,
    )


if __name__ == "__main__":
    run_process("fused", FusedSettings, main)
