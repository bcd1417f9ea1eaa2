"""The life of a request: encode, denoise, decode. Start reading here.

The gateway moves references, never tensors. Whatever happens to a request, everything that was
stored for it is released: before its last event when it succeeds, if a stage that hangs does not
keep it until the deadline, and in the background otherwise.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from services.domain.job_event import JobEvent
from services.gateway.access import Tenant
from services.gateway.byte_room import ByteRoom
from services.gateway.job import Job
from services.gateway.quotas import Quotas
from services.gateway.received_images import ReceivedImage
from services.gateway.replicas import ReplicaPools
from services.gateway.results import Results
from services.observability.logs import get_logger
from triptych.domain.deadline import Deadline
from triptych.domain.errors import TensorNotFound, TriptychError, Unavailable
from triptych.domain.events import Accepted
from triptych.domain.generation import GenerationRequest, resolve
from triptych.domain.generation_result import GenerationResult

DEFAULT_TRANSIT_BYTES: Final = 128 << 20

_RELEASE_SECONDS = 5.0
# A program whose numbers are doubles holds each as it is, and those of a thousand more pictures.
_DRAWN_SEEDS = 2**53 - 1024

_log = get_logger(__name__)


class Pipeline:
    """Strings the stages together, wherever they run.

    Args:
        pools: the stages' replicas.
        quotas: what tenants have used.
        results: where artifacts are kept.
        transit_bytes: of pictures that are on their way to a stage at once; others wait.
    """

    def __init__(
        self,
        pools: ReplicaPools,
        quotas: Quotas,
        results: Results,
        transit_bytes: int = DEFAULT_TRANSIT_BYTES,
    ) -> None:
        self._pools = pools
        self._quotas = quotas
        self._results = results
        self._transit = ByteRoom("picture_transit_bytes", transit_bytes)
        self._releases: set[asyncio.Task[None]] = set()

    def check_quota(self, tenant: Tenant) -> None:
        """Raises QuotaExceeded if nothing more of the tenant's is taken in now."""
        self._quotas.check(tenant)

    async def generate(
        self,
        request: GenerationRequest,
        *,
        images: tuple[ReceivedImage, ...] = (),
        tenant: Tenant,
        job_id: str,
        deadline: Deadline,
    ) -> AsyncGenerator[JobEvent, None]:
        """Yields what happens, the artifact's bytes, and the GenerationResult; closing it cancels.

        Args:
            request: what the client asked.
            images: its images.
            tenant: whose job it is.
            job_id: 32 hexadecimal digits, never used before.
            deadline: when the result stops being worth anything.

        Raises:
            InvalidRequest, ModelNotFound, QuotaExceeded: before any work starts.
            TriptychError: what a stage failed at.
        """
        route = self._pools.route(request.model or "")
        parameters = resolve(request, route.model, _drawn_seed)
        with self._quotas.admitted(tenant, parameters.pixel_steps):
            route.assign()
            job = Job(
                route,
                parameters,
                images,
                tenant,
                job_id,
                deadline,
                self._results,
                self._transit,
            )
            yield Accepted(job_id, parameters)
            async with aclosing(self._run(job)) as events:
                async for event in events:
                    yield event

    async def _run(self, job: Job) -> AsyncGenerator[JobEvent, None]:
        released = False
        try:
            async with aclosing(job.run()) as events:
                async for event in events:
                    if isinstance(event, GenerationResult):
                        released = True
                        await self._released_in_time(job)
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

    async def _released_in_time(self, job: Job) -> None:
        """Waits for the release, but not so long that the result would come too late."""
        release = self._in_background(job)
        done, _ = await asyncio.wait({release}, timeout=job.deadline.remaining_seconds())
        for each in done:
            each.result()

    def _in_background(self, job: Job) -> asyncio.Task[None]:
        task = asyncio.create_task(self._release(job))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)
        return task

    async def _release(self, job: Job) -> None:
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


def _drawn_seed() -> int:
    return secrets.randbelow(_DRAWN_SEEDS)
