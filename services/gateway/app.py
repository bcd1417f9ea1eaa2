"""The gateway's objects, wired: the same for stages in other processes and in this one."""

import asyncio
from collections.abc import Sequence

from services.artifacts.opening import open_artifact_store
from services.domain.stages import Denoiser, Encoder, Vae
from services.gateway.access import Access
from services.gateway.artifact_calls import ArtifactCalls
from services.gateway.input_pictures import InputPictures
from services.gateway.job_desk import JobDesk
from services.gateway.quotas import Quotas
from services.gateway.replicas import ReplicaPools
from services.gateway.results import Results
from services.gateway.runner import Runner
from services.gateway.servicer import GENERATION_SERVICE, GenerationServicer
from services.gateway.settings import PipelineSettings
from services.gateway.uploads import Uploads
from services.jobs.ledger import JobLedger
from services.jobs.opening import MEMORY, open_ledger
from services.jobs.sweeping import sweep_forever
from services.jobs.usage_watch import UsageWatch
from services.observability.metrics import INCOMPATIBLE_REPLICAS, READY_REPLICAS
from services.observability.tracked import GATEWAY
from services.rpc.process import run_until_first_ends
from services.rpc.server import ServiceServer
from triptych.domain.deadline import Deadline
from triptych.v1 import generation_service_pb2_grpc


class GatewayApp:
    """Serves GenerationService over the given stages; healthy while a model can be served.

    Args:
        settings: the process's settings.
        encoders: at least one.
        denoisers: at least one.
        vaes: at least one.

    Raises:
        ConfigurationError: the access file or the artifact store cannot be used.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        encoders: Sequence[Encoder],
        denoisers: Sequence[Denoiser],
        vaes: Sequence[Vae],
    ) -> None:
        access = Access(settings.access_file)
        self.server = ServiceServer(GATEWAY, settings, (GENERATION_SERVICE,), guard=access.admit)
        self._pools = ReplicaPools(
            encoders,
            denoisers,
            vaes,
            poll_seconds=settings.poll_seconds,
            start_patience_seconds=settings.start_patience_seconds,
            on_change=self._on_change,
        )
        self._artifacts = _artifact_calls(settings)
        self._settings = settings
        self._access = access

    async def run(self) -> None:
        """Serves until a signal, then drains.

        Raises:
            ConfigurationError: the address is taken, or the jobs' ledger cannot be used.
        """
        settings = self._settings
        # Closed last: whatever ends before may still have something to write.
        ledger = await open_ledger(settings.jobs, settings.job_retention)
        try:
            await self._serve(ledger)
        finally:
            await ledger.close()

    async def _serve(self, ledger: JobLedger) -> None:
        settings, pools = self._settings, self._pools
        quotas, pictures = Quotas(), InputPictures(self._artifacts)
        results = Results(self._artifacts, settings.artifact_ttl_seconds)
        uploads = Uploads(
            self._artifacts, settings.upload_ttl_seconds, settings.upload_idle_seconds
        )
        desk = JobDesk(ledger, pools, quotas, pictures, settings.picture_transit_bytes)
        shared = not settings.jobs.startswith(MEMORY)
        runner = Runner(
            ledger, pools, results, pictures, quotas, self._access, settings, shared=shared
        )
        servicer = GenerationServicer(
            desk, ledger, pools, uploads, results, settings, self._access, self.server.is_draining
        )
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
            servicer, self.server.grpc
        )
        await self.server.start()
        try:
            with (
                READY_REPLICAS.watching(pools.ready),
                INCOMPATIBLE_REPLICAS.watching(pools.incompatible),
            ):
                await run_until_first_ends(
                    self._drained(runner),
                    pools.watch(),
                    runner.run(),
                    sweep_forever(ledger, settings.job_sweep_seconds),
                    UsageWatch(ledger, settings.job_retention).run(),
                    self._artifacts.sweep_forever(settings.artifact_sweep_seconds),
                )
        finally:
            await self.server.close()
            await runner.close()
            await desk.close()

    async def _drained(self, runner: Runner) -> None:
        """Returns when streams and jobs have ended, or the time for them is up."""
        serving = asyncio.create_task(self.server.run())
        try:
            await self.server.stopping()
            runner.drain()
            drained = Deadline.after(self._settings.drain_seconds)
            await serving
            await runner.finish(drained.remaining_seconds())
        finally:
            serving.cancel()

    async def _on_change(self, serving: bool) -> None:
        await self.server.set_serving(serving=serving)


def _artifact_calls(settings: PipelineSettings) -> ArtifactCalls:
    store = open_artifact_store(settings.artifacts)
    tenant_bytes: int | None = settings.tenant_artifact_bytes
    if tenant_bytes is None and store.quota_bytes is not None and settings.access_file is not None:
        # So that no tenant alone takes the room of all.
        tenant_bytes = store.quota_bytes // 2
    return ArtifactCalls(store, tenant_bytes)
