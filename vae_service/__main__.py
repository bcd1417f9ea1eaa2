"""python -m vae_service: latents to media."""

import asyncio

from services.domain.tensor_ref import Seal
from services.loaded_models.conditioning_encoder import conditioning_encoder
from services.loaded_models.loading import load_vae
from services.model_files.checksums import read_checksums
from services.rpc.process import run_process
from services.rpc.stage_host import StageHost
from services.rpc.store_calls import StoreCalls
from services.rpc.worker import StageWorker
from services.tensor_store.tensor_store import open_store
from services.torch_setup.device_errors import breaks_device
from services.torch_setup.runtime import hold_threads, set_up_torch
from triptych.domain.deadline import Deadline
from triptych.domain.model import Stage
from triptych.v1 import vae_service_pb2_grpc
from vae_service.preview_stage import PreviewStage
from vae_service.replica import VaeReplica
from vae_service.servicer import VaeServicer
from vae_service.settings import VaeSettings
from vae_service.stage import VaeStage
from vae_service.tiling import set_pieces


async def main(settings: VaeSettings) -> None:
    """Serves until a signal."""
    set_up_torch(settings.threads)
    seal = Seal(settings.cluster_secret())
    store = open_store(settings.store, seal=seal, ttl_seconds=settings.tensor_ttl_seconds)
    worker = StageWorker(
        Stage.VAE,
        settings.max_queued_requests,
        hold_threads,
        command_seconds=settings.command_seconds,
        breaks=breaks_device,
    )
    calls = StoreCalls(store)
    replica = VaeReplica(calls, worker)
    host = StageHost(settings, "triptych.v1.VaeService", replica, calls)
    servicer = VaeServicer(replica)
    vae_service_pb2_grpc.add_VaeServiceServicer_to_server(servicer, host.server.grpc)

    async def load() -> None:
        model = await asyncio.to_thread(
            load_vae,
            settings.model,
            settings.model_name,
            settings.dtype,
            settings.device,
            checksums=read_checksums(settings.model_manifest),
        )
        tile_size = set_pieces(model.model, settings.tiles, slicing=settings.slicing)
        cache = store.open_cache(
            settings.conditioning_cache_bytes, settings.conditioning_cache_idle_seconds
        )
        encoder = await asyncio.to_thread(
            conditioning_encoder, cache, model, settings.device, settings.tiles, settings.slicing
        )
        previews = PreviewStage(model, store)
        await replica.warm_up(previews, Deadline.after(settings.command_seconds))
        replica.hold(VaeStage(model, store, tile_size, encoder), previews, (model.loaded,))

    await host.run(serving=True, load=load)


if __name__ == "__main__":
    run_process("vae", VaeSettings, main)
