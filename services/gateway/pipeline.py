"""The life of a request: encode, denoise, decode. Start reading here.

The gateway moves references, never tensors. Whatever happens to a request, everything that was
stored for it is released: before its last event when it succeeds, in the background otherwise.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from services.domain.deadline import Deadline
from services.domain.errors import TensorNotFound, TriptychError, Unavailable
from services.domain.generation import GenerationParameters, GenerationRequest, resolve
from services.domain.job_event import (
    ArtifactChunk,
    JobAccepted,
    JobCompleted,
    JobEvent,
    StageCompleted,
    StageStarted,
)
from services.domain.model import Stage
from services.domain.stages import (
    Artifact,
    DecodeRequest,
    Denoised,
    DenoiseRequest,
    DenoiseStarted,
    EncodeRequest,
    MediaChunk,
    StageTiming,
    StepCompleted,
)
from services.domain.tensor_ref import TensorRef
from services.gateway.replicas import ReplicaPools, Route
from services.observability.logs import get_logger

# What a hop keeps of the deadline, so that it can still answer when the next one runs out of time.
HOP_SECONDS = 0.05
_RELEASE_SECONDS = 5.0

_log = get_logger(__name__)


class Pipeline:
    """Strings the stages together, wherever they run.

    Args:
        pools: the stages' replicas.
    """

    def __init__(self, pools: ReplicaPools) -> None:
        self._pools = pools
        self._releases: set[asyncio.Task[None]] = set()

    async def generate(
        self, request: GenerationRequest, *, tenant: str, job_id: str, deadline: Deadline
    ) -> AsyncGenerator[JobEvent, None]:
        """Yields what happens, the artifact's bytes, and JobCompleted. Closing it cancels the job.

        Args:
            request: what the client asked.
            tenant: whose job it is.
            job_id: 32 hexadecimal digits, never used before.
            deadline: when the result stops being worth anything.

        Raises:
            InvalidRequest, ModelNotFound: before any work starts.
            TriptychError: what a stage failed at.
        """
        route = self._pools.route(request.model)
        parameters = resolve(request, route.model, lambda: secrets.randbits(63))
        job = _Job(route, parameters, tenant, job_id, deadline)
        yield JobAccepted(parameters)
        released = False
        try:
            async with aclosing(job.run()) as events:
                async for event in events:
                    if isinstance(event, JobCompleted):
                        await self._release(job)
                        released = True
                    yield event
        except TriptychError as error:
            # Told by its reason: from another process it comes as a RemoteFailure.
            if error.reason != TensorNotFound.reason:
                raise
            raise Unavailable(
                "a stage was restarted and took this job's tensors with it; repeat the request"
            ) from error
        finally:
            if not released:
                # Not awaited: whoever cancels must not wait, nor be able to cancel this as well.
                self._in_background(job)

    async def close(self) -> None:
        """Waits for the releases under way."""
        await asyncio.gather(*self._releases)

    def _in_background(self, job: "_Job") -> None:
        task = asyncio.create_task(self._release(job))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release(self, job: "_Job") -> None:
        # Every stage is asked: one may be down, and between hosts each store has its own keeper.
        stages = (job.route.encoder, job.route.denoiser, job.route.vae)
        deadline = Deadline.after(_RELEASE_SECONDS)
        answers = await asyncio.gather(
            *(each.release(job.tenant, job.job_id, deadline) for each in stages),
            return_exceptions=True,
        )
        for answer in answers:
            if isinstance(answer, TriptychError):
                _log.warning("not released, will expire", cause=str(answer))
            elif isinstance(answer, BaseException):
                raise answer


class _Job:
    """One request on its way through the stages."""

    def __init__(
        self,
        route: Route,
        parameters: GenerationParameters,
        tenant: str,
        job_id: str,
        deadline: Deadline,
    ) -> None:
        self.route = route
        self.tenant = tenant
        self.job_id = job_id
        self._parameters = parameters
        self._deadline = deadline.earlier(HOP_SECONDS)
        self._began = time.monotonic()
        self._timings: list[StageTiming] = []
        self._conditioning: TensorRef | None = None
        self._denoised: Denoised | None = None
        self._artifact: Artifact | None = None

    async def run(self) -> AsyncGenerator[JobEvent, None]:
        for stage in (self._encode(), self._denoise(), self._decode()):
            async with aclosing(stage) as events:
                async for event in events:
                    yield event
        assert self._denoised is not None
        assert self._artifact is not None
        yield JobCompleted(
            parameters=self._parameters,
            artifacts=(self._artifact,),
            stage_timings=tuple(self._timings),
            latents_checksum_xxh3=self._denoised.latents_checksum_xxh3,
            total_seconds=time.monotonic() - self._began,
        )

    async def _encode(self) -> AsyncGenerator[JobEvent, None]:
        began = time.monotonic()
        yield StageStarted(Stage.ENCODER)
        asked = EncodeRequest(self.job_id, self.tenant, self._parameters)
        encoded = await self.route.encoder.encode(asked, self._deadline)
        self._conditioning = encoded.conditioning
        yield self._completed(encoded.timing, began)

    async def _denoise(self) -> AsyncGenerator[JobEvent, None]:
        began = time.monotonic()
        assert self._conditioning is not None
        asked = DenoiseRequest(self.job_id, self.tenant, self._parameters, self._conditioning)
        async with aclosing(self.route.denoiser.denoise(asked, self._deadline)) as events:
            async for event in events:
                if isinstance(event, DenoiseStarted):
                    yield StageStarted(Stage.DENOISER)
                elif isinstance(event, StepCompleted):
                    yield event
                else:
                    self._denoised = event
        if self._denoised is None:
            raise TriptychError("the denoiser ended without latents")
        yield self._completed(self._denoised.timing, began)

    async def _decode(self) -> AsyncGenerator[JobEvent, None]:
        began = time.monotonic()
        assert self._denoised is not None
        yield StageStarted(Stage.VAE)
        asked = DecodeRequest(self.job_id, self.tenant, self._parameters, self._denoised.latents)
        offset = 0
        timing = None
        async with aclosing(self.route.vae.decode(asked, self._deadline)) as events:
            async for event in events:
                if isinstance(event, Artifact):
                    self._artifact = event
                elif isinstance(event, MediaChunk):
                    # Only the first chunk says what the bytes are.
                    yield ArtifactChunk(None if offset else self._artifact, offset, event.data)
                    offset += len(event.data)
                else:
                    timing = event.timing
        if timing is None or self._artifact is None or offset != self._artifact.size_bytes:
            raise TriptychError("the VAE ended before the artifact was complete")
        yield self._completed(timing, began)

    def _completed(self, timing: StageTiming, began: float) -> StageCompleted:
        whole = replace(timing, total_seconds=time.monotonic() - began)
        self._timings.append(whole)
        return StageCompleted(whole)
