"""What stages report, on the wire."""

from services.domain.stages import (
    Artifact,
    Denoised,
    PreviewLatents,
    StageTiming,
    StepCompleted,
)
from services.rpc.convert.acceleration import (
    decision_from_proto,
    decision_to_proto,
    statistics_from_proto,
    statistics_to_proto,
)
from services.rpc.convert.durations import duration_to_proto, seconds_from_proto
from services.rpc.convert.enums import (
    CONDITIONING_PARTS,
    MEDIA_FORMATS,
    STAGE_TASKS,
    STAGES,
)
from services.rpc.convert.parallel import degrees_from_proto, degrees_to_proto
from services.rpc.convert.tensors import tensor_ref_from_proto, tensor_ref_to_proto
from triptych.domain.conditioning_reuse import ConditioningReuse
from triptych.v1 import denoiser_service_pb2, generation_pb2, job_pb2


def timing_to_proto(timing: StageTiming) -> generation_pb2.StageTiming:
    """Where the time of one stage went."""
    return generation_pb2.StageTiming(
        stage=STAGES.to_wire(timing.stage),
        task=STAGE_TASKS.to_wire(timing.task),
        queue_duration=duration_to_proto(timing.queue_seconds),
        run_duration=duration_to_proto(timing.run_seconds),
        transfer_duration=duration_to_proto(timing.transfer_seconds),
        total_duration=duration_to_proto(timing.total_seconds),
        writing_duration=duration_to_proto(timing.writing_seconds)
        if timing.writing_seconds
        else None,
    )


def timing_from_proto(message: generation_pb2.StageTiming) -> StageTiming:
    """Where the time of one stage went."""
    return StageTiming(
        stage=STAGES.from_wire("timing.stage", message.stage),
        task=STAGE_TASKS.from_wire("timing.task", message.task),
        queue_seconds=seconds_from_proto(message.queue_duration),
        run_seconds=seconds_from_proto(message.run_duration),
        transfer_seconds=seconds_from_proto(message.transfer_duration),
        total_seconds=seconds_from_proto(message.total_duration),
        writing_seconds=seconds_from_proto(message.writing_duration),
    )


def reuse_to_proto(reuse: ConditioningReuse) -> generation_pb2.ConditioningReuse:
    """What of one kind was not encoded."""
    return generation_pb2.ConditioningReuse(
        part=CONDITIONING_PARTS.to_wire(reuse.part),
        looked_up=reuse.looked_up,
        reused=reuse.reused,
    )


def reuse_from_proto(message: generation_pb2.ConditioningReuse) -> ConditioningReuse:
    """What of one kind was not encoded."""
    return ConditioningReuse(
        part=CONDITIONING_PARTS.from_wire("conditioning_reuse.part", message.part),
        looked_up=message.looked_up,
        reused=message.reused,
    )


def step_to_proto(step: StepCompleted) -> job_pb2.StepCompleted:
    """One denoising step."""
    return job_pb2.StepCompleted(
        step=step.step,
        total_steps=step.total_steps,
        sigma=step.sigma,
        duration=duration_to_proto(step.seconds),
        cache_decisions=map(decision_to_proto, step.decisions),
    )


def step_from_proto(message: job_pb2.StepCompleted) -> StepCompleted:
    """One denoising step."""
    return StepCompleted(
        step=message.step,
        total_steps=message.total_steps,
        sigma=message.sigma,
        seconds=seconds_from_proto(message.duration),
        decisions=tuple(map(decision_from_proto, message.cache_decisions)),
    )


def preview_latents_to_proto(preview: PreviewLatents) -> denoiser_service_pb2.PreviewLatents:
    """What the loop was heading for."""
    return denoiser_service_pb2.PreviewLatents(
        step=preview.step, latents=tensor_ref_to_proto(preview.latents)
    )


def preview_latents_from_proto(message: denoiser_service_pb2.PreviewLatents) -> PreviewLatents:
    """What the loop was heading for."""
    return PreviewLatents(message.step, tensor_ref_from_proto("latents", message.latents))


def denoised_to_proto(denoised: Denoised) -> denoiser_service_pb2.DenoisedLatents:
    """The loop's outcome."""
    return denoiser_service_pb2.DenoisedLatents(
        latents=tensor_ref_to_proto(denoised.latents),
        latents_checksum_xxh3=denoised.latents_checksum_xxh3,
        timing=timing_to_proto(denoised.timing),
        cache_statistics=statistics_to_proto(denoised.cache_statistics),
        parallel_degrees=degrees_to_proto(denoised.degrees),
    )


def denoised_from_proto(message: denoiser_service_pb2.DenoisedLatents) -> Denoised:
    """The loop's outcome."""
    return Denoised(
        latents=tensor_ref_from_proto("latents", message.latents),
        latents_checksum_xxh3=message.latents_checksum_xxh3,
        timing=timing_from_proto(message.timing),
        cache_statistics=statistics_from_proto(message.cache_statistics)
        if message.HasField("cache_statistics")
        else None,
        degrees=degrees_from_proto(message.parallel_degrees),
    )


def artifact_to_proto(artifact: Artifact) -> generation_pb2.Artifact:
    """An artifact's description."""
    return generation_pb2.Artifact(
        artifact_id=artifact.artifact_id,
        media_format=MEDIA_FORMATS.to_wire(artifact.media_format),
        width=artifact.width,
        height=artifact.height,
        num_frames=artifact.num_frames,
        size_bytes=artifact.size_bytes,
        checksum_xxh3=artifact.checksum_xxh3,
        tile_size=artifact.tile_size,
    )


def artifact_from_proto(message: generation_pb2.Artifact) -> Artifact:
    """An artifact's description."""
    return Artifact(
        artifact_id=message.artifact_id,
        media_format=MEDIA_FORMATS.from_wire("media_format", message.media_format),
        width=message.width,
        height=message.height,
        num_frames=message.num_frames,
        size_bytes=message.size_bytes,
        checksum_xxh3=message.checksum_xxh3,
        tile_size=message.tile_size,
    )
