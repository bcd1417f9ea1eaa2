"""A run that takes a picture apart into layers: every message, and what is in it."""

import io
import zipfile
from collections.abc import Iterator

import xxhash

from tests.integration.scripted_cluster import TASKS, artifact, duration, event, parameters, timing
from triptych.v1 import generation_pb2, job_pb2
from triptych.v1 import generation_service_pb2 as messages

LAYERS = (b"the background", b"a circle", b"a star")
WRITTEN = "A circle [and] a star."


def layered_run() -> Iterator[messages.GenerateResponse]:
    """Every message of a run with all that only some models do."""
    archive, asked = layered_archive(), layered_parameters()
    yield event(accepted=job_pb2.JobAccepted(parameters=asked))
    for each in timings():
        yield event(stage_started=job_pb2.StageStarted(stage=each.stage, task=each.task))
        yield event(stage_completed=job_pb2.StageCompleted(timing=each))
    described = artifact(
        data=archive, media_format=generation_pb2.MEDIA_FORMAT_PNG_ARCHIVE, num_frames=len(LAYERS)
    )
    chunk = messages.ArtifactChunk(artifact=described, data=archive)
    yield messages.GenerateResponse(artifact_chunk=chunk)
    result = generation_pb2.GenerationResult(
        parameters=asked,
        artifacts=[described],
        stage_timings=timings(),
        total_duration=duration(2.5),
        written_prompt=WRITTEN,
        conditioning_reuse=reuse(),
    )
    yield event(completed=job_pb2.JobCompleted(result=result))


def layered_archive() -> bytes:
    """The layers as the VAE service packs them."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number, layer in enumerate(LAYERS):
            # With the date that ZipInfo has by itself: the bytes are the same whenever it is asked.
            archive.writestr(zipfile.ZipInfo(f"{number:04}.png"), layer)
    return stream.getvalue()


def layered_parameters() -> generation_pb2.GenerationParameters:
    """Effective values: the picture is described, and no longer there."""
    message = parameters(steps=3, seed=7)
    message.media_format = generation_pb2.MEDIA_FORMAT_PNG_ARCHIVE
    picture = xxhash.xxh3_64_intdigest(b"a picture")
    message.images.add(
        description=generation_pb2.ImageDescription(
            width=640, height=480, size_bytes=9, checksum_xxh3=picture
        )
    )
    message.layered.layers = len(LAYERS)
    message.layered.resolution = 64
    message.layered.caption_image = True
    return message


def reuse() -> list[generation_pb2.ConditioningReuse]:
    """The prompt was there, and so was one of two encodings of the picture."""
    return [
        generation_pb2.ConditioningReuse(part=part, looked_up=looked_up, reused=reused)
        for part, looked_up, reused in (
            (generation_pb2.CONDITIONING_PART_PROMPT, 1, 1),
            (generation_pb2.CONDITIONING_PART_NEGATIVE_PROMPT, 1, 0),
            (generation_pb2.CONDITIONING_PART_IMAGE, 2, 1),
        )
    ]


def timings() -> list[generation_pb2.StageTiming]:
    """One of each task, in the order they end."""
    images = timing(generation_pb2.STAGE_VAE)
    images.task = generation_pb2.STAGE_TASK_ENCODE_IMAGES
    encoder, denoiser, vae = map(timing, TASKS)
    encoder.writing_duration.CopyFrom(duration(0.75))
    return [encoder, images, denoiser, vae]
