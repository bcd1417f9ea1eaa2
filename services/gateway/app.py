"""The gateway's objects, wired: the same for stages in other processes and in this one."""

from collections.abc import Sequence

from services.artifacts.opening import open_artifact_store
from services.domain.stages import Denoiser, Encoder, Vae
from services.gateway.access import Access
from services.gateway.artifact_calls import ArtifactCalls
from services.gateway.pipeline import Pipeline
from services.gateway.quotas import Quotas
from services.gateway.replicas import ReplicaPools
from services.gateway.results import Results
from services.gateway.servicer import GENERATION_SERVICE, GenerationServicer
from services.gateway.settings import PipelineSettings
from services.gateway.uploads import Uploads
from services.jobs.ledger import JobLedger
from services.jobs.opening import open_ledger
from services.jobs.sweeping import sweep_forever
from services.observability.metrics import INCOMPATIBLE_REPLICAS, READY_REPLICAS
from services.observability.tracked import GATEWAY
from services.rpc.process import run_until_first_ends
from services.rpc.server import ServiceServer
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
        results = Results(self._artifacts, settings.artifact_ttl_seconds)
        uploads = Uploads(
            self._artifacts, settings.upload_ttl_seconds, settings.upload_idle_seconds
        )
        self._pipeline = Pipeline(self._pools, Quotas(), results, settings.picture_transit_bytes)
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(
            GenerationServicer(self._pipeline, self._pools, uploads, results, settings, access),
            self.server.grpc,
        )

    async def run(self) -> None:
        """Serves until a signal, then drains.

        Raises:
            ConfigurationError: the address is taken, or the ledger of jobs cannot be used.
        """
        # Closed last: whatever ends before may still have something to write.
        ledger = await open_ledger(self._settings.jobs, self._settings.job_retention)
        try:
            await self._serve(ledger)
        finally:
            await ledger.close()

    async def _serve(self, ledger: JobLedger) -> None:
        await self.server.start()
        try:
            with (
                READY_REPLICAS.watching(self._pools.ready),
                INCOMPATIBLE_REPLICAS.watching(self._pools.incompatible),
            ):
                await run_until_first_ends(
                    self.server.run(),
                    self._pools.watch(),
                    self._artifacts.sweep_forever(self._settings.artifact_sweep_seconds),
                    sweep_forever(ledger, self._settings.job_sweep_seconds),
                )
        finally:
            await self.server.close()
            await self._pipeline.close()

    async def _on_change(self, serving: bool) -> None:
        await self.server.set_serving(serving=serving)


def _artifact_calls(settings: PipelineSettings) -> ArtifactCalls:
    store = open_artifact_store(settings.artifacts)
    tenant_bytes: int | None = settings.tenant_artifact_bytes
    if tenant_bytes is None and store.quota_bytes is not None and settings.access_file is not None:
        # So that no tenant alone takes the room of all.
        tenant_bytes = store.quota_bytes // 2
    return ArtifactCalls(store, tenant_bytes)
