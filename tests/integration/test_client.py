"""The clients against a real server that follows a script."""

import asyncio
import math
from pathlib import Path

import pytest

from tests.integration.client_flavours import (
    FLAVOURS,
    AsyncioFlavour,
    Flavour,
    never_ending,
    playing,
    was_cancelled,
)
from tests.integration.scripted_cluster import (
    JOB_ID,
    LATENTS_CHECKSUM,
    PICTURE,
    ScriptedGateway,
    event,
    serving,
    successful_run,
)
from triptych import (
    Accepted,
    AsyncClient,
    Client,
    Completed,
    Event,
    FieldViolation,
    InvalidRequestError,
    LayeredOptions,
    OutputOptions,
    Preview,
    Queued,
    StageCompleted,
    StageStarted,
    StepCompleted,
    VideoOptions,
)
from triptych.domain.family_options import OptionLimits
from triptych.domain.image_fit import ImageFit
from triptych.v1 import job_pb2


def names_in(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()]


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return request.param()


async def test_events_come_in_order_and_end_with_the_generation(flavour: Flavour) -> None:
    async with serving(ScriptedGateway(playing(*successful_run(steps=2)))) as target:
        events = await flavour.events(target)
    assert [type(each) for each in events] == [
        *(Accepted, Queued, StageStarted, StageCompleted),
        *(StageStarted, StepCompleted, StepCompleted, StageCompleted),
        *(StageStarted, StageCompleted, Completed),
    ]
    assert events[0].parameters.seed == 7
    assert events[1] == Queued(position=2, estimated_wait_seconds=1.5)
    assert events[5] == StepCompleted(step=1, total_steps=2, sigma=1.0, seconds=0.05)
    assert [each.stage for each in events if isinstance(each, StageStarted)] == [
        *("encoder", "denoiser", "vae")
    ]


async def test_previews_come_among_the_events_and_can_be_saved(
    flavour: Flavour, tmp_path: Path
) -> None:
    preview = job_pb2.Preview(step=2, data=b"a picture", width=16, height=8)
    started, *rest = successful_run()
    gateway = ScriptedGateway(playing(started, event(preview=preview), *rest))
    async with serving(gateway) as target:
        events = await flavour.events(target, preview_every_steps=2)
    assert gateway.requests[0].parameters.preview_every_steps == 2
    assert events[1] == Preview(step=2, data=b"a picture", width=16, height=8)
    assert events[1].save(tmp_path / "preview.png").read_bytes() == b"a picture"


async def test_generation_carries_the_picture_and_all_that_is_known_of_it(flavour: Flavour) -> None:
    async with serving(ScriptedGateway(playing(*successful_run(seed=2**63 - 1)))) as target:
        generation = await flavour.generate(target)
    assert generation.data == PICTURE
    assert generation.job_id == JOB_ID
    assert generation.seed == generation.parameters.seed == 2**63 - 1
    assert generation.latents_checksum_xxh3 == LATENTS_CHECKSUM
    assert (generation.width, generation.height, generation.media_format) == (128, 64, "png")
    assert generation.parameters.dtype == "float32"
    assert generation.total_seconds == 2.5
    denoiser = generation.stage_timings[1]
    assert (denoiser.stage, denoiser.queue_seconds, denoiser.run_seconds) == ("denoiser", 0.25, 2)
    assert (denoiser.transfer_seconds, denoiser.total_seconds) == (0.125, 2.5)


async def test_finished_generation_is_not_cancelled(flavour: Flavour) -> None:
    gateway = ScriptedGateway(playing(*successful_run()))
    async with serving(gateway) as target:
        await flavour.generate(target)
        await asyncio.wait_for(gateway.finished.wait(), 10)
    assert not gateway.cancelled.is_set()


async def test_only_what_was_asked_for_is_sent(flavour: Flavour) -> None:
    gateway = ScriptedGateway(playing(*successful_run()))
    async with serving(gateway) as target:
        await flavour.generate(target)
        await flavour.generate(
            target,
            model="demo",
            negative_prompt="",
            width=128,
            height=64,
            steps=0,
            guidance_scale=1.5,
            seed=0,
            dtype="bfloat16",
        )
    bare, full = (request.parameters for request in gateway.requests)
    assert [field.name for field, _ in bare.ListFields()] == ["prompt"]
    assert [field.name for field, _ in full.ListFields()] == [
        *("model", "prompt", "negative_prompt", "width", "height"),
        *("steps", "guidance_scale", "seed", "dtype"),
    ]
    assert (full.steps, full.seed, full.negative_prompt) == (0, 0, "")


async def test_not_a_number_is_left_to_the_cluster_to_refuse(flavour: Flavour) -> None:
    gateway = ScriptedGateway(playing(*successful_run()))
    async with serving(gateway) as target:
        await flavour.generate(target, guidance_scale=float("nan"))
    sent = gateway.requests[0].parameters.guidance_scale
    assert math.isnan(sent)


@pytest.mark.parametrize(
    ("options", "violation"),
    [
        ({"seed": -1}, FieldViolation("seed", f"is -1; allowed are 0 to {2**63 - 1}")),
        ({"width": 2**32}, FieldViolation("width", f"is {2**32}; allowed are 0 to {2**32 - 1}")),
        (
            {"dtype": "fp8"},
            FieldViolation("dtype", "is fp8; allowed are float32, bfloat16, float16"),
        ),
    ],
)
async def test_what_the_wire_cannot_carry_is_refused_before_it_is_sent(
    flavour: Flavour, options: dict[str, object], violation: FieldViolation
) -> None:
    gateway = ScriptedGateway(playing(*successful_run()))
    async with serving(gateway) as target:
        with pytest.raises(InvalidRequestError) as refused:
            await flavour.generate(target, **options)
    assert refused.value.violations == (violation,)
    assert gateway.requests == []


@pytest.mark.parametrize(
    ("options", "violations"),
    [
        ({"width": -1}, {"width": "is -1; allowed are multiples of 16 from 64 to 256"}),
        ({"height": 2**32}, {"height": f"is {2**32}; allowed are multiples of 16 from 64 to 256"}),
        # Pictures from which a size would follow are not what is wrong.
        (
            {"model": "editor", "width": -1, "images": [b"a picture"]},
            {"width": "is -1; allowed are multiples of 16 from 64 to 256"},
        ),
        (
            {"steps": -1, "seed": -1, "num_images": -2, "guidance_scale": 3.0},
            {
                "steps": "is -1; allowed are 2 to 100",
                "seed": f"is -1; allowed are 0 to {2**63 - 1}",
                "num_images": "is -2; allowed are 1 to 16",
            },
        ),
        # In what can be sent the cluster finds what is wrong.
        ({"steps": -1, "width": 7}, {"steps": "is -1; allowed are 2 to 100"}),
        (
            {"output": OutputOptions(compression_level=-1)},
            {"output.compression_level": "is -1; allowed are 0 to 9"},
        ),
        (
            {"model": "editor", "options": LayeredOptions(layers=-1)},
            {"layered.layers": "is -1; allowed are 1 to 8"},
        ),
        (
            {"options": VideoOptions(num_frames=-1, frames_per_second=-1)},
            {"video": "are options of another model family; this model has none"},
        ),
        ({"model": "nobody's", "width": -1}, {"width": f"is -1; allowed are 0 to {2**32 - 1}"}),
    ],
)
async def test_what_the_wire_cannot_carry_is_refused_with_the_models_limits(
    flavour: Flavour, options: dict[str, object], violations: dict[str, str]
) -> None:
    gateway = ScriptedGateway(playing(*successful_run()))
    async with serving(gateway) as target:
        with pytest.raises(InvalidRequestError) as refused:
            await flavour.generate(target, **({"model": "demo"} | options))
    assert {each.field: each.description for each in refused.value.violations} == violations
    assert gateway.requests == []


async def test_without_a_cluster_the_limits_are_the_wires(flavour: Flavour) -> None:
    async with serving(ScriptedGateway(playing())) as target:
        pass
    with pytest.raises(InvalidRequestError, match=f"width: is -1; allowed are 0 to {2**32 - 1}"):
        await flavour.generate(target, width=-1)


async def test_leaving_the_stream_cancels_the_job(flavour: Flavour) -> None:
    gateway = ScriptedGateway(never_ending)
    async with serving(gateway) as target:
        await flavour.leave(target, lambda: was_cancelled(gateway))


async def test_failing_callback_cancels_the_job(flavour: Flavour) -> None:
    class Stop(Exception):
        pass

    def stop(_: Event) -> None:
        raise Stop

    gateway = ScriptedGateway(never_ending)
    async with serving(gateway) as target:
        with pytest.raises(Stop):
            await flavour.generate(target, on_event=stop)
        await was_cancelled(gateway)


async def test_cancelling_the_task_cancels_the_job() -> None:
    gateway = ScriptedGateway(never_ending)
    accepted = asyncio.Event()
    async with serving(gateway) as target, AsyncClient(target) as client:
        generating = asyncio.create_task(
            client.generate("a red circle", on_event=lambda _: accepted.set())
        )
        await asyncio.wait_for(accepted.wait(), 10)
        generating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await generating
        await was_cancelled(gateway)


async def test_request_is_sent_only_when_the_first_event_is_asked_for(flavour: Flavour) -> None:
    gateway = ScriptedGateway(playing(*successful_run()))
    async with serving(gateway) as target, AsyncClient(target) as client:
        await client.stream("a red circle").aclose()
        with Client(target) as blocking:
            blocking.stream("a red circle").close()
        await flavour.generate(target)
    assert len(gateway.requests) == 1


async def test_models_come_with_limits_and_defaults(flavour: Flavour) -> None:
    async with serving(ScriptedGateway(playing())) as target:
        models, model = await flavour.model(target, "demo")
    assert models[0] == model
    assert (model.name, model.family, model.dtype) == ("demo", "qwen-image", "float32")
    assert (model.limits.min_side, model.limits.max_side, model.limits.size_multiple) == (
        *(64, 256, 16),
    )
    assert model.limits.media_formats == ("png",)
    assert (model.defaults.steps, model.defaults.guidance_scale) == (20, 4.0)
    assert (model.limits.min_images, model.limits.max_images, model.limits.image_fit) == (
        *(0, 0, None),
    )
    assert model.limits.options == ()


async def test_models_say_how_they_take_pictures_and_which_options_they_have(
    flavour: Flavour,
) -> None:
    async with serving(ScriptedGateway(playing())) as target:
        _, model = await flavour.model(target, "editor")
    assert (model.limits.min_images, model.limits.max_images) == (1, 3)
    assert model.limits.image_fit == ImageFit(
        area_pixels=409600, multiple=32, rounds_up=True, overridable=True
    )
    assert model.limits.options[0] == OptionLimits(
        name="layered.layers", kind="integer", minimum=1, maximum=8, step=1, default=4
    )
    kinds = ["integer", "integer", "number", "switch"]
    assert [each.kind for each in model.limits.options] == kinds


async def test_concurrent_requests_share_one_client() -> None:
    async with (
        serving(ScriptedGateway(playing(*successful_run()))) as target,
        AsyncClient(target) as client,
    ):
        drawn = await asyncio.gather(*(client.generate(f"prompt {n}") for n in range(8)))
    assert [each.data for each in drawn] == [PICTURE] * 8


async def test_saved_picture_is_whole_and_alone_in_its_directory(tmp_path: Path) -> None:
    async with serving(ScriptedGateway(playing(*successful_run()))) as target:
        generation = await AsyncioFlavour().generate(target)
    path = tmp_path / "circle.png"
    path.write_bytes(b"an older picture")
    assert generation.save(path) == path
    assert path.read_bytes() == PICTURE
    assert names_in(tmp_path) == [path.name]


async def test_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    async with serving(ScriptedGateway(playing(*successful_run()))) as target:
        generation = await AsyncioFlavour().generate(target)
    (tmp_path / "circle.png").mkdir()
    with pytest.raises(OSError, match=r"circle\.png"):
        generation.save(tmp_path / "circle.png")
    assert names_in(tmp_path) == ["circle.png"]
