from dataclasses import replace

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from services.domain.checkpoint import Checkpoint, CheckpointPart
from services.domain.stages import Denoised, DenoiseRequest, PreviewLatents, RankGroupInfo
from services.rpc.tables import CAPACITIES, CHECKPOINTS, DENOISE_REQUESTS, DENOISED, PREVIEW_LATENTS
from tests.unit.domain.examples import (
    ARTIFACT,
    CAPABILITIES,
    MODEL,
    PARAMETERS,
    REQUEST_ID,
    TENSOR_REF,
    capacity,
    timing,
)
from triptych.codec.tables import ARTIFACTS, MODELS, REUSES, STEPS, TIMINGS
from triptych.codec.values import Reading, Seconds
from triptych.domain.acceleration import (
    CacheDit,
    CacheMethod,
    CacheSupport,
    CoefficientsSource,
)
from triptych.domain.cache_statistics import BranchDecision, BranchStatistics, CacheStatistics
from triptych.domain.conditioning_reuse import ConditioningPart, ConditioningReuse
from triptych.domain.events import StepCompleted
from triptych.domain.family_options import OptionKind, OptionLimits
from triptych.domain.generation_result import Artifact
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import MediaFormat, Stage
from triptych.domain.parallel import ParallelDegrees, ParallelMethod, ParallelSupport
from triptych.domain.stage_timing import StageTask, StageTiming
from triptych.v1 import capabilities_pb2, generation_pb2, stage_service_pb2

# Whole microseconds, so that equality is exact.
seconds = st.integers(0, 10**12).map(lambda microseconds: microseconds / 1e6)
DEGREES = ParallelDegrees(ulysses=2, ring=3, cfg=4)
uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)


def _duration(value: float) -> Duration:
    message = Duration()
    assert list(Seconds().fill(message, value, "")) == []
    return message


@given(st.floats(0, 1e9))
def test_durations_are_right_to_half_a_nanosecond(value: float) -> None:
    back = Seconds().take(_duration(value), "", Reading(strict=True))
    assert back == pytest.approx(value, rel=1e-15, abs=6e-10)


@pytest.mark.parametrize("value", [0.9999999999, 1.9999999999, 59.99999999999])
def test_rounding_a_duration_up_carries_into_the_seconds(value: float) -> None:
    assert _duration(value).seconds == round(value)
    assert _duration(value).nanos == 0


@given(
    st.builds(
        StageTiming,
        st.sampled_from(Stage),
        st.sampled_from(StageTask),
        seconds,
        seconds,
        seconds,
        seconds,
        seconds,
    )
)
def test_a_timing_survives_the_wire(each: StageTiming) -> None:
    back = TIMINGS.read(TIMINGS.write(each))
    assert (back.stage, back.task) == (each.stage, each.task)
    for part in ("queue", "run", "transfer", "total", "writing"):
        field = f"{part}_seconds"
        assert getattr(back, field) == pytest.approx(getattr(each, field), abs=1e-9)


@given(st.builds(ConditioningReuse, st.sampled_from(ConditioningPart), uint32, uint32))
def test_what_was_looked_up_survives_the_wire(each: ConditioningReuse) -> None:
    assert REUSES.read(REUSES.write(each)) == each


@given(st.builds(StepCompleted, uint32, uint32, st.floats(allow_nan=False), st.just(0.5)))
def test_a_step_survives_the_wire(each: StepCompleted) -> None:
    assert STEPS.read(STEPS.write(each)) == each


@given(
    st.builds(
        Artifact,
        st.just("c" * 32),
        st.sampled_from(MediaFormat),
        uint32,
        uint32,
        uint32,
        uint64,
        uint64,
    )
)
def test_an_artifact_survives_the_wire(each: Artifact) -> None:
    assert ARTIFACTS.read(ARTIFACTS.write(each)) == each


def test_denoised_latents_survive_the_wire() -> None:
    denoised = Denoised(TENSOR_REF, 2**64 - 1, timing(Stage.DENOISER), degrees=DEGREES)
    assert DENOISED.read(DENOISED.write(denoised)) == denoised


@pytest.mark.parametrize("realised", [None, 1.75])
def test_what_a_cache_did_survives_the_wire(realised: float | None) -> None:
    branches = (BranchStatistics("cond", 20, 30), BranchStatistics("uncond", 25, 25))
    did = CacheStatistics(branches, estimated_speedup=2.5, realised_speedup=realised)
    denoised = Denoised(TENSOR_REF, 1, timing(Stage.DENOISER), cache_statistics=did)
    assert DENOISED.read(DENOISED.write(denoised)) == denoised


def test_latents_to_preview_survive_the_wire() -> None:
    latents = PreviewLatents(2**32 - 1, TENSOR_REF)
    assert PREVIEW_LATENTS.read(PREVIEW_LATENTS.write(latents)) == latents


@given(st.lists(st.builds(CheckpointPart, uint32, st.just(TENSOR_REF))), uint32)
def test_a_checkpoint_survives_the_wire(parts: list[CheckpointPart], completed_steps: int) -> None:
    step = StepCompleted(1, 9, 0.5, 0.25, (BranchDecision("cond", reused=True, signal=0.125),))
    checkpoint = Checkpoint(completed_steps, tuple(parts), DEGREES, 0.5, (step,))
    assert CHECKPOINTS.read(CHECKPOINTS.write(checkpoint)) == checkpoint


@pytest.mark.parametrize("resume_from", [None, Checkpoint(7, (CheckpointPart(0, TENSOR_REF),))])
def test_what_a_request_goes_on_from_survives_the_wire(resume_from: Checkpoint | None) -> None:
    request = DenoiseRequest(
        *(REQUEST_ID, "default", PARAMETERS, TENSOR_REF),
        resume_from=resume_from,
        can_hand_over=resume_from is not None,
    )
    assert DENOISE_REQUESTS.read(DENOISE_REQUESTS.write(request)) == request


def test_every_field_of_a_models_capabilities_survives_the_wire() -> None:
    everything = replace(
        CAPABILITIES,
        min_images=1,
        max_images=3,
        image_fit=ImageFit(
            area_pixels=2**20,
            multiple=32,
            rounds_up=True,
            overridable=True,
            shortest_edge=512,
            longest_edge=1024,
        ),
        options=(
            OptionLimits(
                name="video.num_frames",
                kind=OptionKind.INTEGER,
                minimum=1,
                maximum=81,
                step=4,
                default=5,
            ),
        ),
        supports_previews=True,
        supports_step_batching=True,
        media_formats=tuple(MediaFormat),
        cache_support=CacheSupport(
            methods=tuple(CacheMethod),
            blocks=(12, 4),
            tea_cache_coefficients=(1.0, 2.0, 3.0, 4.0, 5.0),
            coefficients_source=CoefficientsSource.CALIBRATED,
        ),
        defaults=replace(
            CAPABILITIES.defaults, cache=CacheDit(taylorseer_order=2), cache_min_steps=9
        ),
        parallel_support=ParallelSupport(
            methods=tuple(ParallelMethod), attention_heads=24, guidance_branches=2
        ),
    )
    model = replace(MODEL, capabilities=everything)
    message = MODELS.write(model)
    wire = capabilities_pb2.Capabilities.DESCRIPTOR.fields_by_name
    assert {field.name for field, _ in message.capabilities.ListFields()} == set(wire)
    assert MODELS.read(message) == model


@pytest.mark.parametrize(
    "ranks",
    [
        None,
        RankGroupInfo(24, 3, 2**40, DEGREES),
        RankGroupInfo(24, 3, 5, DEGREES, 2**41, 2**42, 2**43, 12.5),
    ],
)
def test_a_replicas_capacity_survives_the_wire(ranks: RankGroupInfo | None) -> None:
    asked = capacity(
        Stage.DENOISER,
        "painter",
        "draftsman",
        running_requests=1,
        queued_requests=2,
        draining=True,
        rank_group=ranks,
    )
    message = stage_service_pb2.GetCapacityResponse.FromString(
        CAPACITIES.write(asked).SerializeToString()
    )
    assert CAPACITIES.read(message) == asked


def test_no_field_of_an_artifact_is_left_behind() -> None:
    artifact = replace(
        ARTIFACT,
        num_frames=81,
        index=2,
        seed=7,
        latents_checksum_xxh3=77,
        expire_time=1.9e9,
        url="https:",
    )
    message = ARTIFACTS.write(artifact)
    wire = generation_pb2.Artifact.DESCRIPTOR.fields_by_name
    assert {field.name for field, _ in message.ListFields()} == set(wire)
