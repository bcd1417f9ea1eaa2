"""Valid values of the domain's nouns, for tests to vary."""

from dataclasses import replace

from services.domain.stages import Capacity
from services.domain.tensor_ref import TensorRef, TensorSpec
from triptych.domain.acceleration import NO_CACHE
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters
from triptych.domain.generation_result import Artifact
from triptych.domain.model import (
    Capabilities,
    Component,
    GenerationDefaults,
    LoadedModel,
    MediaFormat,
    ModelInfo,
    Stage,
)
from triptych.domain.output_options import OutputOptions
from triptych.domain.stage_timing import StageTask, StageTiming

REQUEST_ID = "0123456789abcdef" * 2
STORE = f"shm:{'5' * 32}"

DEFAULTS = GenerationDefaults(
    width=128, height=64, steps=20, guidance_scale=4.0, negative_prompt="blurry"
)
CAPABILITIES = Capabilities(
    max_prompt_characters=100,
    max_prompt_tokens=32,
    size_multiple=16,
    min_side=32,
    max_side=256,
    max_pixels=128 * 128,
    min_steps=2,
    max_steps=50,
    supports_guidance=True,
    min_guidance_scale=1.0,
    max_guidance_scale=20.0,
    defaults=DEFAULTS,
)
MODEL = ModelInfo(
    name="painter", family="qwen-image", capabilities=CAPABILITIES, dtype=ElementType.FLOAT32
)
PARAMETERS = GenerationParameters(
    model="painter",
    prompt="a red circle",
    negative_prompt="blurry",
    width=128,
    height=64,
    steps=3,
    guidance_scale=4.0,
    seed=7,
    dtype=ElementType.FLOAT32,
    cache=NO_CACHE,
    media_format=MediaFormat.PNG,
    output=OutputOptions(compression_level=3),
)
TENSOR_REF = TensorRef(
    store=STORE,
    owner="a" * 32,
    key="b" * 32,
    tensors=(
        TensorSpec(name="prompt_embeds", element_type=ElementType.BFLOAT16, shape=(1, 17, 64)),
        TensorSpec(name="mask", element_type=ElementType.BOOL, shape=()),
    ),
    size_bytes=4096,
    checksum_xxh3=2**64 - 1,
    expire_time=1_800_000_000.123456,
    tenant="default",
    request_id=REQUEST_ID,
    mac=b"\x00\xff",
)
ARTIFACT = Artifact(
    artifact_id="c" * 32,
    media_format=MediaFormat.PNG,
    width=128,
    height=64,
    num_frames=1,
    size_bytes=6,
    checksum_xxh3=2**63 + 1,
    tile_size=1024,
)


def loaded(name: str = "painter") -> LoadedModel:
    part = Component(
        name="transformer", parameter_count=10, size_bytes=40, dtype=ElementType.FLOAT32
    )
    return LoadedModel(model=replace(MODEL, name=name), components=(part,))


TASKS = {
    Stage.ENCODER: StageTask.ENCODE_PROMPT,
    Stage.DENOISER: StageTask.DENOISE,
    Stage.VAE: StageTask.DECODE,
}


def timing(stage: Stage, task: StageTask | None = None) -> StageTiming:
    task = task or TASKS[stage]
    return StageTiming(stage, task, queue_seconds=0.25, run_seconds=1.5, transfer_seconds=0.125)


def capacity(stage: Stage, *models: str, store: str = STORE, **changes: object) -> Capacity:
    values: dict[str, object] = {
        "stage": stage,
        "instance_id": "d" * 32,
        "models": tuple(loaded(each) for each in models),
        "tensor_store": store,
        "running_requests": 0,
        "queued_requests": 0,
        "max_queued_requests": 8,
        "draining": False,
    }
    return Capacity(**(values | changes))  # type: ignore[arg-type]
