"""A gateway that does as it is told: real sockets, real messages, no stages."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import xxhash
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from triptych.v1 import capabilities_pb2, generation_pb2, job_pb2, tensor_pb2
from triptych.v1 import generation_service_pb2 as messages
from triptych.v1.generation_service_pb2_grpc import (
    GenerationServiceServicer,
    add_GenerationServiceServicer_to_server,
)

JOB_ID = "0" * 32
PICTURE = bytes(range(256)) * 40
LATENTS_CHECKSUM = 0xFEDCBA9876543210
TASKS = {
    generation_pb2.STAGE_ENCODER: generation_pb2.STAGE_TASK_ENCODE_PROMPT,
    generation_pb2.STAGE_DENOISER: generation_pb2.STAGE_TASK_DENOISE,
    generation_pb2.STAGE_VAE: generation_pb2.STAGE_TASK_DECODE,
}

Script = Callable[
    [messages.GenerateRequest, grpc.aio.ServicerContext], AsyncIterator[messages.GenerateResponse]
]
UploadScript = Callable[[grpc.aio.ServicerContext], Awaitable[None]]


async def takes_it(context: grpc.aio.ServicerContext) -> None:
    """Has nothing against an upload."""


class Broken(Exception):
    """Raised by a script where the connection is to break."""


class ScriptedGateway(GenerationServiceServicer):
    """Answers Generate by a script, and remembers what it was asked. Events get their numbers here.

    Args:
        script: answers Generate.
        on_upload: called when the first bytes of an upload are there; may refuse it.
    """

    def __init__(self, script: Script, on_upload: UploadScript = takes_it) -> None:
        self._script = script
        self._on_upload = on_upload
        self.requests: list[messages.GenerateRequest] = []
        self.uploads: dict[str, list[bytes]] = {}
        self.artifacts: dict[str, Callable[[int], Iterable[messages.ArtifactChunk]]] = {}
        self.offsets: list[int] = []
        self.cancelled = asyncio.Event()
        self.finished = asyncio.Event()

    async def Generate(  # noqa: N802
        self, request: messages.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[messages.GenerateResponse]:
        self.requests.append(request)
        sequence = 0
        try:
            async for response in self._script(request, context):
                if response.HasField("event"):
                    sequence += 1
                    response.event.sequence = response.event.sequence or sequence
                yield response
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        except Broken:
            await break_off(context)
        self.finished.set()

    async def UploadImage(  # noqa: N802
        self,
        request: AsyncIterator[messages.UploadImageRequest],
        context: grpc.aio.ServicerContext,
    ) -> messages.UploadImageResponse:
        chunks: list[bytes] = []
        try:
            async for each in request:
                if not chunks:
                    await self._on_upload(context)
                chunks.append(each.data)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        upload_id = f"upload-{len(self.uploads)}"
        self.uploads[upload_id] = chunks
        return messages.UploadImageResponse(upload_id=upload_id, width=640, height=480)

    async def DownloadArtifact(  # noqa: N802
        self, request: messages.DownloadArtifactRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[messages.DownloadArtifactResponse]:
        self.offsets.append(request.offset_bytes)
        if request.artifact_id not in self.artifacts:
            message = f"artifact_id: {request.artifact_id!r} is not here (any more)"
            await refuse(context, grpc.StatusCode.NOT_FOUND, "ARTIFACT_NOT_FOUND", message)
        if request.offset_bytes > len(PICTURE):
            message = f"offset_bytes: is {request.offset_bytes}"
            await refuse(context, grpc.StatusCode.OUT_OF_RANGE, "OUT_OF_RANGE", message)
        try:
            for chunk in self.artifacts[request.artifact_id](request.offset_bytes):
                yield messages.DownloadArtifactResponse(chunk=chunk)
        except Broken:
            await break_off(context)

    async def ListModels(  # noqa: N802
        self, request: messages.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> messages.ListModelsResponse:
        return messages.ListModelsResponse(models=MODELS.values())

    async def GetModel(  # noqa: N802
        self, request: messages.GetModelRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetModelResponse:
        if request.name not in MODELS:
            message = f"model: {request.name!r} is not served here; served models: demo"
            await refuse(context, grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", message)
        return messages.GetModelResponse(model=MODELS[request.name])


@asynccontextmanager
async def serving(gateway: ScriptedGateway, target: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """Serves it, on a free port unless one is given, and gives the target."""
    server = grpc.aio.server()
    add_GenerationServiceServicer_to_server(gateway, server)
    port = server.add_insecure_port(target)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=0)


async def break_off(context: grpc.aio.ServicerContext) -> None:
    """Ends the call as gRPC itself does when the connection is gone."""
    await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


async def refuse(
    context: grpc.aio.ServicerContext,
    code: grpc.StatusCode,
    reason: str,
    message: str,
    *more: Message,
) -> None:
    """Ends the call as the gateway does: a status with google.rpc details."""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain="triptych"), *more):
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    await context.abort_with_status(rpc_status.to_status(status))


def successful_run(steps: int = 3, seed: int = 7) -> Iterator[messages.GenerateResponse]:
    """Every message of a run that ends well."""
    yield event(accepted=job_pb2.JobAccepted(parameters=parameters(steps, seed)))
    yield event(queued=job_pb2.JobQueued(position=2, estimated_wait=duration(1.5)))
    for stage in (1, 2, 3):
        yield event(stage_started=job_pb2.StageStarted(stage=stage, task=TASKS[stage]))
        if stage == generation_pb2.STAGE_DENOISER:
            for step in range(1, steps + 1):
                sigma = 1 - (step - 1) / steps
                yield event(
                    step_completed=job_pb2.StepCompleted(
                        step=step, total_steps=steps, sigma=sigma, duration=duration(0.05)
                    )
                )
        yield event(stage_completed=job_pb2.StageCompleted(timing=timing(stage)))
    yield from artifact_chunks()
    yield completed(steps, seed)


def artifact_chunks(data: bytes = PICTURE) -> Iterator[messages.GenerateResponse]:
    """The picture in three pieces."""
    size = len(data) // 3 + 1
    for offset in range(0, len(data), size):
        chunk = messages.ArtifactChunk(offset_bytes=offset, data=data[offset : offset + size])
        if offset == 0:
            chunk.artifact.CopyFrom(artifact())
        yield messages.GenerateResponse(artifact_chunk=chunk)


def completed(steps: int = 3, seed: int = 7) -> messages.GenerateResponse:
    """The last message."""
    result = generation_pb2.GenerationResult(
        parameters=parameters(steps, seed),
        artifacts=[artifact()],
        stage_timings=[timing(stage) for stage in (1, 2, 3)],
        latents_checksum_xxh3=LATENTS_CHECKSUM,
        total_duration=duration(2.5),
    )
    return event(completed=job_pb2.JobCompleted(result=result))


def event(**kind: Message) -> messages.GenerateResponse:
    """A response that carries one event."""
    return messages.GenerateResponse(event=job_pb2.JobEvent(job_id=JOB_ID, **kind))


def parameters(steps: int, seed: int) -> generation_pb2.GenerationParameters:
    return generation_pb2.GenerationParameters(
        model="demo",
        prompt="a red circle",
        negative_prompt=" ",
        width=128,
        height=64,
        steps=steps,
        guidance_scale=4,
        seed=seed,
        dtype=tensor_pb2.ELEMENT_TYPE_FLOAT32,
        media_format=generation_pb2.MEDIA_FORMAT_PNG,
    )


def artifact(
    data: bytes = PICTURE,
    media_format: generation_pb2.MediaFormat = generation_pb2.MEDIA_FORMAT_PNG,
    num_frames: int = 1,
) -> generation_pb2.Artifact:
    return generation_pb2.Artifact(
        artifact_id=JOB_ID,
        media_format=media_format,
        width=128,
        height=64,
        num_frames=num_frames,
        size_bytes=len(data),
        checksum_xxh3=xxhash.xxh3_64_intdigest(data),
    )


def timing(stage: int) -> generation_pb2.StageTiming:
    return generation_pb2.StageTiming(
        stage=stage,
        task=TASKS[stage],
        queue_duration=duration(0.25),
        run_duration=duration(stage),
        transfer_duration=duration(0.125),
        total_duration=duration(stage + 0.5),
    )


def duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))


def demo_model() -> capabilities_pb2.Model:
    return capabilities_pb2.Model(
        name="demo",
        family="qwen-image",
        dtype=tensor_pb2.ELEMENT_TYPE_FLOAT32,
        capabilities=capabilities_pb2.Capabilities(
            max_prompt_characters=1000,
            max_prompt_tokens=512,
            size_multiple=16,
            min_side=64,
            max_side=256,
            max_pixels=65536,
            min_steps=2,
            max_steps=100,
            supports_guidance=True,
            min_guidance_scale=1,
            max_guidance_scale=20,
            media_formats=[generation_pb2.MEDIA_FORMAT_PNG],
            defaults=capabilities_pb2.GenerationDefaults(
                width=128, height=128, steps=20, guidance_scale=4, negative_prompt=" "
            ),
        ),
    )


def editing_model() -> capabilities_pb2.Model:
    """Takes pictures in, and has an option of every kind."""
    model = demo_model()
    model.name = "editor"
    model.capabilities.MergeFrom(
        capabilities_pb2.Capabilities(
            min_images=1,
            max_images=3,
            image_fit=capabilities_pb2.ImageFit(
                area_pixels=409600, multiple=32, rounds_up=True, overridable=True
            ),
            media_formats=[generation_pb2.MEDIA_FORMAT_PNG_ARCHIVE],
            supports_negative_prompt=True,
            supports_step_batching=True,
            guidance_field="layered.strength",
            guidance_off_scale=0.25,
            options=[
                option("layered.layers", capabilities_pb2.OPTION_KIND_INTEGER, 1, 8, 1, 4),
                option("layered.resolution", capabilities_pb2.OPTION_KIND_INTEGER, 64, 640, 64, 64),
                option("layered.strength", capabilities_pb2.OPTION_KIND_NUMBER, 0, 1, 0, 0.5),
                option("layered.caption_image", capabilities_pb2.OPTION_KIND_SWITCH, 0, 1, 1, 0),
            ],
        )
    )
    return model


def option(
    field: str, kind: int, minimum: float, maximum: float, step: float, default: float
) -> capabilities_pb2.OptionLimits:
    return capabilities_pb2.OptionLimits(
        field=field,
        kind=kind,
        minimum=minimum,
        maximum=maximum,
        step=step,
        default_value=default,
    )


MODELS = {each.name: each for each in (demo_model(), editing_model())}
