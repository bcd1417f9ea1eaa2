"""python -m encoder_service: prompts to conditioning."""

import asyncio

from encoder_service.replica import EncoderReplica
from encoder_service.servicer import EncoderServicer
from encoder_service.settings import EncoderSettings
from encoder_service.stage import EncodeStage
from services.domain.tensor_ref import Seal
from services.loaded_models.conditioning_encoder import conditioning_encoder
from services.loaded_models.loading import load_encoder
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
from triptych.v1 import encoder_service_pb2_grpc


async def main(settings: EncoderSettings) -> None:
    """Serves until a signal."""
    set_up_torch(settings.threads)
    seal = Seal(settings.cluster_secret())
    store = open_store(settings.store, seal=seal, ttl_seconds=settings.tensor_ttl_seconds)
    worker = StageWorker(
        Stage.ENCODER,
        settings.max_queued_requests,
        hold_threads,
        command_seconds=settings.command_seconds,
        breaks=breaks_device,
    )
    calls = StoreCalls(store)
    replica = EncoderReplica(calls, worker)
    host = StageHost(settings, "triptych.v1.EncoderService", replica, calls)
    servicer = EncoderServicer(replica)
    encoder_service_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, host.server.grpc)

    async def load() -> None:
        model = await asyncio.to_thread(
            load_encoder,
            settings.model,
            settings.model_name,
            settings.dtype,
            settings.device,
            checksums=read_checksums(settings.model_manifest),
        )
        cache = store.open_cache(
            settings.conditioning_cache_bytes, settings.conditioning_cache_idle_seconds
        )
        encoder = await asyncio.to_thread(conditioning_encoder, cache, model, settings.device)
        stage = EncodeStage(model, store, encoder)
        await replica.warm_up(stage, Deadline.after(settings.command_seconds))
        replica.hold(stage, (model.loaded,))

    await host.run(serving=True, load=load)


if __name__ == "__main__":
    run_process("encoder", EncoderSettings, main)
