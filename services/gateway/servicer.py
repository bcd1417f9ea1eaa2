"""GenerationService on the wire."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc

from services.gateway.access import Access, Tenant
from services.gateway.byte_room import ByteRoom
from services.gateway.delivery import Delivery, watched
from services.gateway.job_desk import JobDesk, Order, job_of, within
from services.gateway.received_images import receive_images
from services.gateway.replicas import ReplicaPools
from services.gateway.results import Results
from services.gateway.settings import PipelineSettings
from services.gateway.uploads import Uploads
from services.jobs.ledger import JobLedger
from services.jobs.record import JobKey, JobRecord
from services.observability import tracing
from services.observability.logs import bind_request, get_logger
from services.observability.tracked import GATEWAY, GENERATE, SUBMIT, Tracked
from services.rpc.generation_request import read_request
from services.rpc.stored import request_of
from services.rpc.tables import ARTIFACT_CHUNKS
from triptych.codec.tables import (
    JOB_PAGES,
    JOB_QUERIES,
    JOBS,
    MODELS,
    SCHEDULINGS,
    UPLOADED_IMAGES,
)
from triptych.domain.errors import DeadlineExceeded, JobNotFound, ModelNotFound
from triptych.domain.input_image import UploadedImage
from triptych.domain.job import Scheduling
from triptych.domain.model import MediaFormat
from triptych.v1 import generation_pb2, generation_service_pb2_grpc
from triptych.v1 import generation_service_pb2 as pb2

GENERATION_SERVICE = "triptych.v1.GenerationService"

Context = grpc.aio.ServicerContext[Any, Any]

_log = get_logger(__name__)


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """See protos/triptych/v1/generation_service.proto.

    Args:
        desk: takes jobs in.
        ledger: where they are kept.
        pools: what can be served.
        uploads: images that came before their requests.
        results: what was drawn before.
        settings: limits of deadlines.
        access: whose keys are whose.
        draining: whether the streams that end now are ended by this process, not by their callers.
    """

    def __init__(
        self,
        desk: JobDesk,
        ledger: JobLedger,
        pools: ReplicaPools,
        uploads: Uploads,
        results: Results,
        settings: PipelineSettings,
        access: Access,
        draining: Callable[[], bool],
    ) -> None:
        self._desk = desk
        self._ledger = ledger
        self._pools = pools
        self._uploads = uploads
        self._results = results
        self._settings = settings
        self._requests = ByteRoom("max_request_bytes", settings.max_request_bytes)
        self._access = access
        self._draining = draining

    async def Generate(  # noqa: N802 - gRPC's name
        self, request: pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[pb2.GenerateResponse]:
        """Takes a job in that is bound to this stream, and streams what happens."""
        with Tracked(GATEWAY, GENERATE) as tracked:
            tracing.attach(tracked.span)
            tenant = self._tenant(context)
            # Before its pictures are read, which takes time that others need.
            await self._desk.check(tenant)
            seconds = self._seconds(context)
            with self._requests.taken(request.ByteSize()):
                scheduling = within(SCHEDULINGS.read(request.scheduling), seconds)
                if scheduling.max_queue_seconds is None:
                    # Who waits in a stream would rather try elsewhere than wait in a queue.
                    scheduling = replace(scheduling, max_queue_seconds=0.0)
                order = await self._order(request.parameters, scheduling, tenant, tracked)
                record = await self._desk.submit(tenant, replace(order, bound=True))
            _note_accepted(record, tracked)
            delivery = Delivery(self._ledger, self._results, record.key, self._leave)
            async with aclosing(delivery.messages()) as messages:
                async for message in messages:
                    if message.event.HasField("completed"):
                        took = message.event.completed.result.total_duration
                        _log.info("completed", seconds=round(took.ToMicroseconds() / 1e6, 3))
                        tracked.succeed()
                    yield message

    async def ListModels(  # noqa: N802 - gRPC's name
        self, request: pb2.ListModelsRequest, context: Context
    ) -> pb2.ListModelsResponse:
        """Lists the models that a request may name now."""
        self._pools.check_serves()
        return pb2.ListModelsResponse(models=map(MODELS.write, self._pools.models().values()))

    async def GetModel(  # noqa: N802 - gRPC's name
        self, request: pb2.GetModelRequest, context: Context
    ) -> pb2.GetModelResponse:
        """Reads one model's capabilities, limits and defaults."""
        models = self._pools.models()
        if request.name not in models:
            self._pools.check_serves()
            raise ModelNotFound(request.name, list(models))
        return pb2.GetModelResponse(model=MODELS.write(models[request.name]))

    async def SubmitJob(  # noqa: N802 - gRPC's name
        self, request: pb2.SubmitJobRequest, context: Context
    ) -> pb2.SubmitJobResponse:
        """Takes a job in, whoever watches it."""
        with Tracked(GATEWAY, SUBMIT) as tracked:
            tracing.attach(tracked.span)
            tenant = self._tenant(context)
            await self._desk.check(tenant)
            with self._requests.taken(request.ByteSize()):
                scheduling = within(
                    SCHEDULINGS.read(request.scheduling), self._settings.max_job_seconds
                )
                order = await self._order(request.parameters, scheduling, tenant, tracked)
                order = replace(order, client_request_id=request.client_request_id)
                record = await self._desk.submit(tenant, order)
            _note_accepted(record, tracked)
            return pb2.SubmitJobResponse(job=JOBS.write(job_of(record)))

    async def GetJob(  # noqa: N802 - gRPC's name
        self, request: pb2.GetJobRequest, context: Context
    ) -> pb2.GetJobResponse:
        """Reads a job of the caller's tenant."""
        key = self._key(request.job_id, context)
        job = await self._desk.get(key)
        if job.result is not None:
            job = replace(job, result=await self._results.linked(key.tenant, job.result))
        return pb2.GetJobResponse(job=JOBS.write(job))

    async def WatchJob(  # noqa: N802 - gRPC's name
        self, request: pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[pb2.WatchJobResponse]:
        """Streams a job's events after a sequence number, to its end."""
        key = self._key(request.job_id, context)
        async with aclosing(watched(self._ledger, key, request.after_sequence)) as events:
            async for event in events:
                yield pb2.WatchJobResponse(event=event)

    async def CancelJob(  # noqa: N802 - gRPC's name
        self, request: pb2.CancelJobRequest, context: Context
    ) -> pb2.CancelJobResponse:
        """Cancels a job, wherever it is worked on."""
        job = await self._desk.cancel(self._key(request.job_id, context))
        return pb2.CancelJobResponse(job=JOBS.write(job))

    async def ListJobs(  # noqa: N802 - gRPC's name
        self, request: pb2.ListJobsRequest, context: Context
    ) -> pb2.ListJobsResponse:
        """Lists jobs of the caller's tenant, newest first."""
        query = JOB_QUERIES.read(request)
        return JOB_PAGES.write(await self._desk.list_jobs(self._tenant(context).name, query))

    async def DownloadArtifact(  # noqa: N802 - gRPC's name
        self, request: pb2.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[pb2.DownloadArtifactResponse]:
        """Streams a kept artifact of the caller's tenant."""
        tenant = self._tenant(context).name
        chunks = self._results.read(tenant, request.artifact_id, request.offset_bytes)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield pb2.DownloadArtifactResponse(chunk=ARTIFACT_CHUNKS.write(chunk))

    async def UploadImage(  # noqa: N802 - gRPC's name
        self, request: AsyncIterator[pb2.UploadImageRequest], context: Context
    ) -> pb2.UploadImageResponse:
        """Takes an input image that is too large for a request."""
        tenant, chunks = self._tenant(context), (each.data async for each in request)
        try:
            # What has arrived takes room, and whoever sends it may have no deadline of its own.
            async with asyncio.timeout(self._seconds(context)):
                upload_id, described = await self._uploads.take(tenant, chunks)
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed before the upload was here") from error
        return UPLOADED_IMAGES.write(UploadedImage(upload_id, described.width, described.height))

    async def _order(
        self,
        parameters: generation_pb2.GenerationParameters,
        scheduling: Scheduling,
        tenant: Tenant,
        tracked: Tracked,
    ) -> Order:
        images = await receive_images(parameters, self._uploads, tenant.name)
        asked = read_request(parameters, [image.described for image in images])
        parent = tracing.traceparent(tracked.span) or ""
        return Order(asked, tuple(images), scheduling, traceparent=parent)

    def _leave(self, key: JobKey) -> None:
        # A stream that this process ends is no wish of its caller's, who may watch elsewhere.
        if not self._draining():
            self._desk.cancel_soon(key)

    def _key(self, job_id: str, context: Context) -> JobKey:
        key = JobKey(self._tenant(context).name, job_id)
        if not key.is_well_formed:
            raise JobNotFound(job_id[:80])
        bind_request(job_id)
        return key

    def _tenant(self, context: Context) -> Tenant:
        return self._access.tenant_of(context.invocation_metadata() or ())

    def _seconds(self, context: Context) -> float:
        asked = context.time_remaining()
        seconds = self._settings.default_deadline_seconds if asked is None else asked
        return min(seconds, self._settings.max_deadline_seconds)


def _note_accepted(record: JobRecord, tracked: Tracked) -> None:
    bind_request(record.key.job_id)
    asked = request_of(record.parameters).parameters
    tracked.begin(asked.model)
    # The prompt is personal data and stays out.
    size = f"{asked.width}x{asked.height}"
    _log.info("accepted", model=asked.model, size=size, steps=asked.steps)
    is_video = asked.media_format is MediaFormat.MP4
    tracked.span.set_attributes(
        {
            "triptych.job_id": record.key.job_id,
            "gen_ai.operation.name": "generate_content",
            "gen_ai.output.type": "video" if is_video else "image",
            "triptych.size": size,
            "triptych.steps": asked.steps,
            "triptych.cache.method": asked.cache.kind,
            "triptych.images": len(asked.images),
        }
    )
