"""Pictures on their way into a request, and all that comes back of an edit."""

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest
import xxhash
from google.rpc import error_details_pb2

from tests.integration.client_flavours import (
    FLAVOURS,
    Flavour,
    never_ending,
    playing,
    was_cancelled,
)
from tests.integration.scripted_cluster import ScriptedGateway, refuse, serving, successful_run
from tests.integration.scripted_edit import LAYERS, WRITTEN, layered_archive, layered_run
from triptych import (
    AsyncClient,
    BagelOptions,
    ConditioningReuse,
    DeadlineExceededError,
    FieldViolation,
    FluxOptions,
    GenerationRequest,
    ImageDescription,
    InvalidRequestError,
    LayeredOptions,
    LongCatOptions,
    ResourceExhaustedError,
    StageStarted,
    UnavailableError,
    UploadedImage,
    VideoOptions,
)
from triptych.request_writer import RequestWriter
from triptych.v1 import generation_pb2

MIB = 1024 * 1024
UPLOADED = UploadedImage("upload-0", 640, 480)


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return request.param()


@pytest.fixture
def gateway() -> ScriptedGateway:
    return ScriptedGateway(playing(*successful_run()))


async def test_small_pictures_travel_inside_the_request_in_their_order(
    flavour: Flavour, gateway: ScriptedGateway, tmp_path: Path
) -> None:
    (tmp_path / "second.png").write_bytes(b"the second")
    (tmp_path / "third.png").write_bytes(b"the third")
    images = [b"the first", tmp_path / "second.png", str(tmp_path / "third.png")]
    async with serving(gateway) as target:
        await flavour.generate(target, images=images)
    sent = gateway.requests[0].parameters.images
    assert [each.data for each in sent] == [b"the first", b"the second", b"the third"]
    assert not any(each.HasField("description") for each in sent)
    assert gateway.uploads == {}


async def test_pictures_too_large_for_one_request_are_uploaded_ahead_of_it(
    flavour: Flavour, gateway: ScriptedGateway
) -> None:
    large, small = bytes(2 * MIB) + b"the large one", b"the small one" + bytes(MIB)
    async with serving(gateway) as target:
        await flavour.generate(target, images=[large, small])
    sent = gateway.requests[0].parameters.images
    received = [b"".join(gateway.uploads[each.upload_id]) for each in sent]
    assert received == [large, small]
    assert [len(chunk) for chunk in gateway.uploads["upload-0"]] == [MIB, MIB, 13]


@pytest.mark.parametrize(("spare", "uploaded"), [(0, False), (-1, True)])
async def test_it_is_the_whole_request_that_must_stay_under_3_mib(
    flavour: Flavour, gateway: ScriptedGateway, spare: int, *, uploaded: bool
) -> None:
    bare = RequestWriter(GenerationRequest(prompt="a red circle", images=())).generate()
    room = 3 * MIB - bare.parameters.ByteSize() - len(b"\x62\x00") - spare
    async with serving(gateway) as target:
        await flavour.generate(target, images=[bytes(room)])
    assert bool(gateway.uploads) is uploaded


async def test_an_upload_serves_several_requests(
    flavour: Flavour, gateway: ScriptedGateway, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"a picture")
    async with serving(gateway) as target:
        uploaded = await flavour.upload(target, path)
        await flavour.generate(target, images=[uploaded, b"another"])
        await flavour.generate(target, images=[uploaded])
    assert uploaded == UPLOADED
    assert gateway.uploads == {"upload-0": [b"a picture"]}
    first, second = (request.parameters.images for request in gateway.requests)
    assert [(each.upload_id, each.data) for each in first] == [("upload-0", b""), ("", b"another")]
    assert [each.upload_id for each in second] == ["upload-0"]


async def test_a_refused_upload_is_named_as_the_request_names_it(flavour: Flavour) -> None:
    async def not_a_picture(context: grpc.aio.ServicerContext) -> None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field="data", description="is not a picture"
        )
        details = error_details_pb2.BadRequest(field_violations=[violation])
        code = grpc.StatusCode.INVALID_ARGUMENT
        await refuse(context, code, "INVALID_REQUEST", "data: is not a picture", details)

    gateway = ScriptedGateway(playing(), not_a_picture)
    async with serving(gateway) as target:
        with pytest.raises(InvalidRequestError, match=r"^images\[1\]: is not a pic") as refused:
            await flavour.generate(target, images=[UPLOADED, bytes(8 * MIB)])
        with pytest.raises(InvalidRequestError, match=r"^data: is not a picture$"):
            await flavour.upload(target, b"no picture")
    assert refused.value.violations == (FieldViolation("images[1]", "is not a picture"),)
    assert gateway.requests == []


async def test_a_full_gateway_refuses_the_request_with_its_upload(flavour: Flavour) -> None:
    async def full(context: grpc.aio.ServicerContext) -> None:
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        await refuse(context, code, "RESOURCE_EXHAUSTED", "uploads fill the gateway")

    gateway = ScriptedGateway(playing(), full)
    async with serving(gateway) as target:
        with pytest.raises(ResourceExhaustedError, match="uploads fill the gateway"):
            await flavour.generate(target, images=[bytes(4 * MIB)])
    assert gateway.requests == []


async def test_the_deadline_covers_upload_and_generation(flavour: Flavour) -> None:
    async def never(context: grpc.aio.ServicerContext) -> None:
        await asyncio.Event().wait()

    for gateway in (ScriptedGateway(playing(), never), ScriptedGateway(never_ending)):
        async with serving(gateway) as target:
            with pytest.raises(DeadlineExceededError):
                await flavour.generate(target, images=[bytes(4 * MIB)], timeout=0.5)


async def test_cancelling_the_task_cancels_its_upload() -> None:
    arrived = asyncio.Event()

    async def never(context: grpc.aio.ServicerContext) -> None:
        arrived.set()
        await asyncio.Event().wait()

    gateway = ScriptedGateway(playing(), never)
    async with serving(gateway) as target, AsyncClient(target) as client:
        generating = asyncio.create_task(client.generate("x", images=[bytes(4 * MIB)]))
        await asyncio.wait_for(arrived.wait(), 10)
        generating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await generating
        await was_cancelled(gateway)


async def test_an_upload_to_an_unreachable_cluster_names_it(flavour: Flavour) -> None:
    with pytest.raises(UnavailableError, match=r"the cluster at 127\.0\.0\.1:1 cannot be"):
        await flavour.upload("127.0.0.1:1", b"a picture")


async def test_a_missing_file_is_an_error_of_the_system(
    flavour: Flavour, gateway: ScriptedGateway, tmp_path: Path
) -> None:
    async with serving(gateway) as target:
        with pytest.raises(FileNotFoundError, match=r"none\.png"):
            await flavour.generate(target, images=[tmp_path / "none.png"])
    assert gateway.requests == []


async def test_a_url_is_refused_wherever_a_picture_is_taken(
    flavour: Flavour, gateway: ScriptedGateway
) -> None:
    async with serving(gateway) as target:
        for url in ("http://example.com/a.png", "HTTPS://example.com/a.png", "s3://bucket/a.png"):
            with pytest.raises(InvalidRequestError) as refused:
                await flavour.generate(target, images=[b"a picture", url])
            (violation,) = refused.value.violations
            assert violation.field == "images[1]"
            assert violation.description.startswith(
                f"is the URL {url}; allowed are bytes and paths"
            )
            with pytest.raises(InvalidRequestError, match="is the URL"):
                await flavour.upload(target, url)
    assert (gateway.requests, gateway.uploads) == ([], {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"images": b"a picture"}, "images is one picture; give a sequence"),
        ({"images": "cat.png"}, "images is one picture; give a sequence"),
        ({"images": Path("cat.png")}, "images is one picture; give a sequence"),
        ({"images": [object()]}, r"images\[0\] is of type object; a picture is"),
        ({"options": {"num_frames": 5}}, "options is of type dict; allowed are VideoOptions"),
        ({"options": VideoOptions(num_frames="five")}, "int"),
    ],
)
async def test_values_of_the_wrong_type_are_never_sent(
    flavour: Flavour, gateway: ScriptedGateway, options: dict[str, object], said: str
) -> None:
    async with serving(gateway) as target:
        with pytest.raises(TypeError, match=said):
            await flavour.generate(target, **options)
    assert gateway.requests == []


async def test_pictures_may_come_from_a_generator(
    flavour: Flavour, gateway: ScriptedGateway
) -> None:
    async with serving(gateway) as target:
        await flavour.generate(target, images=(each for each in (b"one", b"two")))
    assert [each.data for each in gateway.requests[0].parameters.images] == [b"one", b"two"]


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (
            VideoOptions(num_frames=9, frames_per_second=8),
            {"num_frames": 9, "frames_per_second": 8},
        ),
        (VideoOptions(low_noise_guidance_scale=0), {"low_noise_guidance_scale": 0}),
        (LayeredOptions(layers=0, caption_image=False), {"layers": 0, "caption_image": False}),
        (LongCatOptions(rewrite_prompt=True), {"rewrite_prompt": True}),
        (
            BagelOptions(guidance_interval_start=0.25, guidance_interval_end=1),
            {"guidance_interval_start": 0.25, "guidance_interval_end": 1},
        ),
        (BagelOptions(), {}),
        (FluxOptions(true_guidance_scale=4), {"true_guidance_scale": 4}),
    ],
)
async def test_options_say_whose_they_are_and_only_what_was_given(
    flavour: Flavour, gateway: ScriptedGateway, options: object, sent: dict[str, object]
) -> None:
    async with serving(gateway) as target:
        await flavour.generate(target, options=options)
    parameters = gateway.requests[0].parameters
    group = parameters.WhichOneof("family_options")
    assert group is not None
    written = getattr(parameters, group)
    assert type(written).__name__ == type(options).__name__
    assert {field.name: value for field, value in written.ListFields()} == sent


async def test_an_option_the_wire_cannot_carry_is_named_by_its_path(
    flavour: Flavour, gateway: ScriptedGateway
) -> None:
    async with serving(gateway) as target:
        with pytest.raises(InvalidRequestError) as refused:
            await flavour.generate(target, options=VideoOptions(num_frames=-1), media_format="gif")
    assert refused.value.violations == (
        FieldViolation("media_format", "is gif; allowed are png, mp4, png_archive, jpeg, webp"),
        FieldViolation("video.num_frames", f"is -1; allowed are 0 to {2**32 - 1}"),
    )


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("png", generation_pb2.MEDIA_FORMAT_PNG),
        ("mp4", generation_pb2.MEDIA_FORMAT_MP4),
        ("png_archive", generation_pb2.MEDIA_FORMAT_PNG_ARCHIVE),
    ],
)
async def test_the_media_format_is_sent(
    flavour: Flavour, gateway: ScriptedGateway, name: str, number: int
) -> None:
    async with serving(gateway) as target:
        await flavour.generate(target, media_format=name)
    assert gateway.requests[0].parameters.media_format == number


async def test_an_edit_comes_back_with_all_that_is_known_of_it(flavour: Flavour) -> None:
    async with serving(ScriptedGateway(playing(*layered_run()))) as target:
        generation = await flavour.generate(target)
    assert (generation.media_format, generation.num_frames) == ("png_archive", 3)
    assert generation.data == layered_archive()
    assert generation.pictures() == list(LAYERS)
    assert generation.written_prompt == WRITTEN
    assert generation.conditioning_reuse == (
        ConditioningReuse(part="prompt", looked_up=1, reused=1),
        ConditioningReuse(part="negative_prompt", looked_up=1, reused=0),
        ConditioningReuse(part="image", looked_up=2, reused=1),
    )
    assert generation.parameters.options == LayeredOptions(
        layers=3, resolution=64, caption_image=True
    )
    assert generation.parameters.images == (
        ImageDescription(
            width=640,
            height=480,
            size_bytes=9,
            checksum_xxh3=xxhash.xxh3_64_intdigest(b"a picture"),
        ),
    )
    assert [(each.stage, each.task, each.writing_seconds) for each in generation.stage_timings] == [
        ("encoder", "encode_prompt", 0.75),
        ("vae", "encode_images", 0),
        ("denoiser", "denoise", 0),
        ("vae", "decode", 0),
    ]


async def test_events_tell_the_two_tasks_of_the_vae_apart(flavour: Flavour) -> None:
    async with serving(ScriptedGateway(playing(*layered_run()))) as target:
        events = await flavour.events(target)
    assert [each for each in events if isinstance(each, StageStarted)] == [
        StageStarted("encoder", "encode_prompt"),
        StageStarted("vae", "encode_images"),
        StageStarted("denoiser", "denoise"),
        StageStarted("vae", "decode"),
    ]


async def test_a_plain_picture_is_one_frame_that_nobody_wrote_a_prompt_for(
    flavour: Flavour, gateway: ScriptedGateway
) -> None:
    async with serving(gateway) as target:
        generation = await flavour.generate(target)
    assert generation.pictures() == [generation.data]
    assert (generation.num_frames, generation.written_prompt) == (1, None)
    assert (generation.parameters.images, generation.parameters.options) == ((), None)
    assert generation.conditioning_reuse == ()
