"""Jobs over scripted stages, without a wire between them and their client."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from services.domain.job_event import ArtifactChunk, JobEvent
from services.gateway.access import ANYBODY, Access, Tenant
from services.gateway.delivery import Delivery
from services.gateway.input_pictures import InputPictures
from services.gateway.job_desk import JobDesk, Order, within
from services.gateway.quotas import Quotas
from services.gateway.received_images import ReceivedImage
from services.gateway.replicas import ReplicaPools
from services.gateway.results import Results
from services.gateway.runner import Runner
from services.jobs.memory_ledger import MemoryLedger
from services.jobs.record import JobKey
from services.rpc.tables import ARTIFACT_CHUNKS
from tests.unit.gateway.kept_artifacts import artifact_calls
from tests.unit.gateway.running_gateway import Settings
from tests.unit.gateway.scripted_stages import (
    ScriptedCluster,
    ScriptedDenoiser,
    ScriptedStage,
    ScriptedVae,
)
from triptych.codec.tables import JOB_EVENTS
from triptych.domain.generation import GenerationRequest
from triptych.domain.job import Scheduling
from triptych.domain.receipt import Fingerprint, SoftwareVersion


class ScriptedGateway:
    """Takes jobs in, carries them out and delivers them.

    Args:
        request: what is asked for unless something else is said.
        cluster: the stages.
        more: further replicas.
        shared: whether others go on with what this one gives back.
    """

    def __init__(
        self,
        request: GenerationRequest,
        cluster: ScriptedCluster | None = None,
        more: Sequence[ScriptedStage] = (),
        *,
        shared: bool = False,
        ledger: MemoryLedger | None = None,
        **told: Any,
    ) -> None:
        self.request = request
        self.cluster = stages = cluster or ScriptedCluster()
        self.ledger = ledger or MemoryLedger()
        self.pools = ReplicaPools(
            [stages.encoder],
            [stages.denoiser, *(each for each in more if isinstance(each, ScriptedDenoiser))],
            [stages.vae, *(each for each in more if isinstance(each, ScriptedVae))],
            poll_seconds=60,
            on_change=_ignore,
        )
        self.calls = artifact_calls()
        pictures, quotas = InputPictures(self.calls), Quotas()
        self.results = Results(self.calls, 60)
        settings = Settings(listen="127.0.0.1:0", **told)
        self.desk = JobDesk(self.ledger, self.pools, quotas, pictures, 1 << 20)
        self.runner = Runner(
            self.ledger,
            self.pools,
            self.results,
            pictures,
            quotas,
            Access(None),
            settings,
            shared=shared,
        )
        self.keys: list[JobKey] = []

    @property
    def released(self) -> tuple[str, str]:
        """What each stage is asked to release, of the last job."""
        return self.keys[-1].tenant, self.keys[-1].job_id

    async def submit(
        self,
        request: GenerationRequest | None = None,
        images: tuple[ReceivedImage, ...] = (),
        tenant: Tenant = ANYBODY,
        seconds: float = 600,
        *,
        bound: bool = False,
    ) -> JobKey:
        """Takes a job in."""
        scheduling = within(Scheduling(max_queue_seconds=0.0 if bound else None), seconds)
        order = Order(request or self.request, images, scheduling, bound=bound)
        record = await self.desk.submit(tenant, order)
        self.keys.append(record.key)
        return record.key

    async def generate(
        self,
        request: GenerationRequest | None = None,
        images: tuple[ReceivedImage, ...] = (),
        tenant: Tenant = ANYBODY,
        seconds: float = 600,
    ) -> AsyncGenerator[JobEvent, None]:
        """Takes a job in that is bound to this stream, and yields what its client gets."""
        key = await self.submit(request, images, tenant, seconds, bound=True)
        delivery = Delivery(self.ledger, self.results, key, self.desk.cancel_soon)
        async with aclosing(delivery.messages()) as messages:
            async for message in messages:
                if message.HasField("artifact_chunk"):
                    chunk: ArtifactChunk = ARTIFACT_CHUNKS.read(message.artifact_chunk)
                    yield chunk
                else:
                    event: JobEvent = JOB_EVENTS.read(message.event)
                    yield event

    async def all_of(
        self,
        request: GenerationRequest | None = None,
        images: tuple[ReceivedImage, ...] = (),
        tenant: Tenant = ANYBODY,
    ) -> list[JobEvent]:
        """All that a client gets."""
        async with aclosing(self.generate(request, images, tenant)) as events:
            return [event async for event in events]

    async def say(self, fingerprint: Fingerprint, version: SoftwareVersion) -> None:
        """Lets every stage report what its model and its software are."""
        for stage in self.cluster.stages.values():
            assert stage.capacity_now is not None
            (held,) = stage.capacity_now.models
            models = (replace(held, fingerprints=(fingerprint,)),)
            stage.capacity_now = replace(stage.capacity_now, models=models, versions=(version,))
        await self.pools.look()

    async def settle(self) -> None:
        """Returns when nothing is at work any more."""
        await self.desk.close()
        await self.runner.finish(20)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Works until it is left; nothing may be left at work then."""
        await self.pools.look()
        running = asyncio.create_task(self.runner.run())
        try:
            async with asyncio.timeout(30):
                yield
                await self.settle()
                stages = self.cluster.stages.values()
                assert [stage.running for stage in stages] == [0, 0, 0]
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self.runner.close()
            await self.ledger.close()


async def _ignore(serving: bool) -> None:
    pass
