"""GenerationService on the wire."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, NoReturn

import grpc

from services.domain.job_event import JobEvent
from services.gateway.access import Access, Tenant
from services.gateway.byte_room import ByteRoom
from services.gateway.pipeline import Pipeline
from services.gateway.received_images import receive_images
from services.gateway.replicas import ReplicaPools
from services.gateway.results import Results
from services.gateway.settings import PipelineSettings
from services.gateway.uploads import Uploads
from services.observability import tracing
from services.observability.logs import bind_request, get_logger
from services.observability.tracked import GATEWAY, GENERATE, Tracked
from services.rpc.event_writer import EventWriter
from services.rpc.generation_request import read_request
from services.rpc.tables import ARTIFACT_CHUNKS
from triptych.codec.tables import MODELS, UPLOADED_IMAGES
from triptych.domain.deadline import Deadline
from triptych.domain.errors import DeadlineExceeded, ModelNotFound, Unsupported
from triptych.domain.events import Accepted
from triptych.domain.generation_result import GenerationResult
from triptych.domain.input_image import UploadedImage
from triptych.domain.model import MediaFormat
from triptych.v1 import generation_service_pb2 as pb2
from triptych.v1 import generation_service_pb2_grpc

GENERATION_SERVICE = "triptych.v1.GenerationService"

Context = grpc.aio.ServicerContext[Any, Any]

_log = get_logger(__name__)


class GenerationServicer(generation_service_pb2_grpc.GenerationServiceServicer):
    """See protos/triptych/v1/generation_service.proto.

    Args:
        pipeline: what carries out a request.
        pools: what can be served.
        uploads: images that came before their requests.
        results: what was drawn before.
        settings: limits of deadlines.
        access: whose keys are whose.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        pools: ReplicaPools,
        uploads: Uploads,
        results: Results,
        settings: PipelineSettings,
        access: Access,
    ) -> None:
        self._pipeline = pipeline
        self._pools = pools
        self._uploads = uploads
        self._results = results
        self._settings = settings
        self._requests = ByteRoom("max_request_bytes", settings.max_request_bytes)
        self._access = access

    async def Generate(  # noqa: N802 - gRPC's name
        self, request: pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[pb2.GenerateResponse]:
        """Generates and streams what happens."""
        job_id = uuid.uuid4().hex
        bind_request(job_id)
        with Tracked(GATEWAY, GENERATE) as tracked:
            tracing.attach(tracked.span)
            tracked.span.set_attribute("triptych.job_id", job_id)
            tenant = self._tenant(context)
            # Before its pictures are read, which takes time that others need.
            self._pipeline.check_quota(tenant)
            # A request is held, with its pictures, until it has ended.
            with self._requests.taken(request.ByteSize()):
                images = await receive_images(request.parameters, self._uploads, tenant.name)
                described = [image.described for image in images]
                asked = read_request(request.parameters, request.scheduling, described)
                writer = EventWriter(job_id)
                events = self._pipeline.generate(
                    asked,
                    images=tuple(images),
                    tenant=tenant,
                    job_id=job_id,
                    deadline=self._deadline(context),
                )
                async with aclosing(events):
                    async for event in events:
                        _note_milestone(event, tracked)
                        yield writer.write(event)

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
        """Not served yet."""
        _unserved("SubmitJob")

    async def GetJob(  # noqa: N802 - gRPC's name
        self, request: pb2.GetJobRequest, context: Context
    ) -> pb2.GetJobResponse:
        """Not served yet."""
        _unserved("GetJob")

    def WatchJob(  # noqa: N802 - gRPC's name
        self, request: pb2.WatchJobRequest, context: Context
    ) -> AsyncIterator[pb2.WatchJobResponse]:
        """Not served yet."""
        _unserved("WatchJob")

    async def CancelJob(  # noqa: N802 - gRPC's name
        self, request: pb2.CancelJobRequest, context: Context
    ) -> pb2.CancelJobResponse:
        """Not served yet."""
        _unserved("CancelJob")

    async def ListJobs(  # noqa: N802 - gRPC's name
        self, request: pb2.ListJobsRequest, context: Context
    ) -> pb2.ListJobsResponse:
        """Not served yet."""
        _unserved("ListJobs")

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
            async with asyncio.timeout(self._deadline(context).remaining_seconds()):
                upload_id, described = await self._uploads.take(tenant, chunks)
        except TimeoutError as error:
            raise DeadlineExceeded("the deadline passed before the upload was here") from error
        return UPLOADED_IMAGES.write(UploadedImage(upload_id, described.width, described.height))

    def _tenant(self, context: Context) -> Tenant:
        return self._access.tenant_of(context.invocation_metadata() or ())

    def _deadline(self, context: Context) -> Deadline:
        asked = context.time_remaining()
        seconds = self._settings.default_deadline_seconds if asked is None else asked
        return Deadline.after(min(seconds, self._settings.max_deadline_seconds))


def _note_milestone(event: JobEvent, tracked: Tracked) -> None:
    if isinstance(event, Accepted):
        asked = event.parameters
        tracked.begin(asked.model)
        # The prompt is personal data and stays out.
        size = f"{asked.width}x{asked.height}"
        _log.info("accepted", model=asked.model, size=size, steps=asked.steps)
        tracked.span.set_attributes(
            {
                "gen_ai.operation.name": "generate_content",
                "gen_ai.output.type": "video" if asked.media_format is MediaFormat.MP4 else "image",
                "triptych.size": size,
                "triptych.steps": asked.steps,
                "triptych.cache.method": asked.cache.kind,
                "triptych.images": len(asked.images),
            }
        )
    elif isinstance(event, GenerationResult):
        _log.info("completed", seconds=round(event.total_seconds, 3))
        tracked.succeed()


def _unserved(method: str) -> NoReturn:
    raise Unsupported(f"{method} is not served by this release; use Generate")
