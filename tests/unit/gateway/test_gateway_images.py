import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash

from services.gateway.received_images import MAX_IMAGES
from services.pictures.input_picture import MAX_BYTES
from tests.unit.domain.examples import CAPABILITIES
from tests.unit.gateway.running_gateway import Gateway, failure_of, running_gateway
from tests.unit.pictures.drawn import drawn, encoded, header_of, turned
from triptych.domain.conditioning_reuse import ConditioningPart, ConditioningReuse
from triptych.domain.family_options import OptionKind, OptionLimits, VideoOptions
from triptych.v1 import generation_pb2, generation_service_pb2

PICTURE = encoded(drawn())
ON_ITS_SIDE = encoded(drawn(), "JPEG", exif=turned(6))
InputImage = generation_pb2.InputImage
FRAMES, RATE = (
    OptionLimits(
        name=f"video.{name}",
        kind=OptionKind.INTEGER,
        minimum=1,
        maximum=81,
        step=step,
        default=default,
    )
    for name, step, default in (("num_frames", 4, 81), ("frames_per_second", 1, 16))
)


@asynccontextmanager
async def _editor(tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway whose model takes a picture or two."""
    editing = replace(CAPABILITIES, min_images=1, max_images=2)
    async with running_gateway(tmp_path) as gateway:
        gateway.cluster.limit(editing)
        await gateway.until_the_model_is(editing)
        yield gateway


def _upload(gateway: Gateway, data: bytes, chunk: int = 1000) -> Any:
    def chunks() -> Iterator[generation_service_pb2.UploadImageRequest]:
        for start in range(0, len(data), chunk):
            part = data[start : start + chunk]
            yield generation_service_pb2.UploadImageRequest(data=part)

    return gateway.stub.UploadImage(chunks(), timeout=20)


async def _fields(call: Any) -> dict[str, str]:
    error = await failure_of(call)
    assert (error.status, error.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    return {each.field: each.description for each in error.violations}


async def test_pictures_reach_the_stages_whichever_way_they_came(tmp_path: Path) -> None:
    async with _editor(tmp_path) as gateway:
        uploaded = await _upload(gateway, ON_ITS_SIDE)
        assert (uploaded.width, uploaded.height) == (24, 40)
        images = [InputImage(upload_id=uploaded.upload_id), InputImage(data=PICTURE)]
        async for _ in gateway.generate(images=images):
            pass
        (encode,) = gateway.cluster.encoder.requests
        assert encode.images == (ON_ITS_SIDE, PICTURE)
        assert [(each.width, each.height) for each in encode.parameters.images] == [
            (24, 40),
            (40, 24),
        ]
        assert [each.image for each in gateway.cluster.vae.image_requests] == [*encode.images]


async def test_an_upload_may_be_named_by_several_requests_and_twice_in_one(tmp_path: Path) -> None:
    async with _editor(tmp_path) as gateway:
        uploaded = await _upload(gateway, PICTURE)
        for count in (1, 2):
            async for _ in gateway.generate(
                images=[InputImage(upload_id=uploaded.upload_id)] * count
            ):
                pass
        assert [len(each.images) for each in gateway.cluster.encoder.requests] == [1, 2]


async def test_what_is_accepted_describes_the_pictures_and_does_not_send_them_back(
    tmp_path: Path,
) -> None:
    forged = generation_pb2.ImageDescription(width=1, height=1, size_bytes=1, checksum_xxh3=1)
    async with _editor(tmp_path) as gateway:
        asked = [InputImage(data=ON_ITS_SIDE, description=forged)]
        answers = [answer async for answer in gateway.generate(images=asked)]
    events = [answer.event for answer in answers if answer.HasField("event")]
    described = InputImage(
        description=generation_pb2.ImageDescription(
            width=24,
            height=40,
            size_bytes=len(ON_ITS_SIDE),
            checksum_xxh3=xxhash.xxh3_64_intdigest(ON_ITS_SIDE),
        )
    )
    assert [*events[0].accepted.parameters.images] == [described]
    assert events[-1].completed.result.parameters == events[0].accepted.parameters


async def test_the_result_says_what_was_looked_up_in_a_conditioning_cache(tmp_path: Path) -> None:
    async with _editor(tmp_path) as gateway:
        gateway.cluster.vae.conditioning_reuse = (ConditioningReuse(ConditioningPart.IMAGE, 1, 1),)
        images = [InputImage(data=PICTURE)] * 2
        answers = [answer async for answer in gateway.generate(images=images)]
    expected = generation_pb2.ConditioningReuse(
        part=generation_pb2.CONDITIONING_PART_IMAGE, looked_up=2, reused=2
    )
    assert [*answers[-1].event.completed.result.conditioning_reuse] == [expected]


async def test_the_tasks_of_a_request_with_pictures_are_told(tmp_path: Path) -> None:
    async with _editor(tmp_path) as gateway:
        answers = [answer async for answer in gateway.generate(images=[InputImage(data=PICTURE)])]
    result = answers[-1].event.completed.result
    assert {each.task for each in result.stage_timings} == {
        generation_pb2.STAGE_TASK_ENCODE_PROMPT,
        generation_pb2.STAGE_TASK_ENCODE_IMAGES,
        generation_pb2.STAGE_TASK_DENOISE,
        generation_pb2.STAGE_TASK_DECODE,
    }


@pytest.mark.parametrize(
    ("image", "field", "description"),
    [
        (InputImage(data=b"<svg/>"), "images[1]", "is not a picture; allowed are PNG, JPEG and W"),
        (InputImage(data=b""), "images[1]", "is empty; allowed are PNG, JPEG and WebP"),
        (InputImage(), "images[1]", "is empty; give its data or its upload_id"),
        (InputImage(data=header_of(60_000, 60_000)), "images[1]", "has too many pixels; allowed"),
        (InputImage(upload_id="f" * 32), "images[1].upload_id", f"is '{'f' * 32}', which is not h"),
        (InputImage(upload_id=""), "images[1].upload_id", "is '', which is not here (any more);"),
    ],
    ids=["text", "nothing", "unset", "too large", "unknown", "nameless"],
)
async def test_a_wrong_picture_is_refused_by_its_place(
    tmp_path: Path, image: InputImage, field: str, description: str
) -> None:
    async with _editor(tmp_path) as gateway:
        refused = await _fields(gateway.generate(images=[InputImage(data=PICTURE), image]))
        assert refused.keys() == {field}
        assert refused[field].startswith(description)
        assert gateway.cluster.encoder.requests == []


async def test_other_than_the_number_of_pictures_a_model_takes_is_refused(tmp_path: Path) -> None:
    async with _editor(tmp_path) as gateway:
        for count in (0, 3):
            refused = await _fields(gateway.generate(images=[InputImage(data=PICTURE)] * count))
            assert refused == {"images": f"are {count}; this model takes 1 to 2"}


async def test_more_pictures_than_any_model_takes_are_refused_before_they_are_read(
    tmp_path: Path,
) -> None:
    async with _editor(tmp_path) as gateway:
        images = [InputImage(data=b"no picture")] * (MAX_IMAGES + 1)
        assert await _fields(gateway.generate(images=images)) == {
            "images": "are 17; allowed are at most 16"
        }


async def test_a_model_that_draws_from_prompts_alone_refuses_pictures(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        refused = await _fields(gateway.generate(images=[InputImage(data=PICTURE)]))
    assert refused == {"images": "are 1; this model takes none"}


@pytest.mark.parametrize("data", [b"", b"<svg/>", PICTURE[:20]], ids=["nothing", "text", "start"])
async def test_an_upload_that_is_no_picture_is_refused(tmp_path: Path, data: bytes) -> None:
    async with running_gateway(tmp_path) as gateway:
        assert (await _fields(_upload(gateway, data))).keys() == {"data"}


async def test_an_upload_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        refused = await _fields(_upload(gateway, bytes(MAX_BYTES + 1), chunk=2**20))
    assert refused == {"data": f"has more than {MAX_BYTES} bytes; allowed are at most so many"}


async def test_an_upload_that_never_ends_gives_its_room_back_at_the_deadline(
    tmp_path: Path,
) -> None:
    left = asyncio.Event()

    async def begun() -> AsyncIterator[generation_service_pb2.UploadImageRequest]:
        yield generation_service_pb2.UploadImageRequest(data=PICTURE[:100])
        await left.wait()

    limits = {"artifacts": "memory:?quota_bytes=4096", "max_deadline_seconds": 0.5}
    async with running_gateway(tmp_path, **limits) as gateway:
        error = await failure_of(gateway.stub.UploadImage(begun()))
        assert (error.status, error.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
        left.set()
        assert (await _upload(gateway, PICTURE)).upload_id


async def test_a_picture_that_is_too_large_for_a_request_goes_in_as_an_upload(
    tmp_path: Path,
) -> None:
    large = encoded(drawn(size=(1300, 1000)))
    assert len(large) > 3 * 2**20
    images = [InputImage(data=large)] * 2
    async with _editor(tmp_path) as gateway:
        error = await failure_of(gateway.generate(images=images))
        assert error.status == "RESOURCE_EXHAUSTED"
        assert gateway.cluster.encoder.requests == []
        uploaded = await _upload(gateway, large, chunk=2**20)
        images = [InputImage(upload_id=uploaded.upload_id)] * 2
        async for _ in gateway.generate(images=images):
            pass
        assert gateway.cluster.encoder.requests[0].images == (large, large)


async def test_options_reach_the_stages_with_their_defaults(tmp_path: Path) -> None:
    options = (FRAMES, RATE)
    filming = replace(CAPABILITIES, options=options)
    async with running_gateway(tmp_path) as gateway:
        gateway.cluster.limit(filming)
        await gateway.until_the_model_is(filming)
        video = generation_pb2.VideoOptions(num_frames=5)
        async for _ in gateway.generate(video=video):
            pass
        asked = gateway.cluster.denoiser.requests[0].parameters.options
        assert asked == VideoOptions(num_frames=5, frames_per_second=16)
        refused = await _fields(gateway.generate(video=generation_pb2.VideoOptions(num_frames=6)))
        assert refused == {"video.num_frames": "is 6; allowed are 1, 5 and so on to 81"}
