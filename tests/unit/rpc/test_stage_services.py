from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.domain.stages import (
    DecodeRequest,
    DenoiseRequest,
    DrawPreviewRequest,
    EncodeImageRequest,
    EncodeRequest,
    PreviewLatents,
)
from services.pictures.input_picture import MAX_BYTES
from services.rpc.channels import open_channel
from services.rpc.status import error_of
from tests.unit.domain.examples import PARAMETERS, REQUEST_ID, TENSOR_REF, loaded
from tests.unit.gateway.scripted_stages import (
    IMAGE_LATENTS,
    PICTURE,
    PREVIEWS,
    ScriptedDenoiser,
    ScriptedEncoder,
    ScriptedVae,
)
from tests.unit.rpc.panel import CANCEL, RELEASE, denoiser_panel, encoder_panel, signed, vae_panel
from tests.unit.rpc.scripted_store import STATS
from triptych.domain.conditioning_reuse import ConditioningPart, ConditioningReuse
from triptych.domain.deadline import Deadline
from triptych.domain.errors import NotFound, TriptychError
from triptych.domain.input_image import ImageDescription
from triptych.domain.model import Stage
from triptych.v1 import (
    denoiser_service_pb2,
    denoiser_service_pb2_grpc,
    encoder_service_pb2,
    encoder_service_pb2_grpc,
    tensor_store_service_pb2,
    tensor_store_service_pb2_grpc,
)

SOON = Deadline.after(24 * 3600)
ENCODE = EncodeRequest(REQUEST_ID, "default", PARAMETERS, attempt=2**64 - 1)
DENOISE = DenoiseRequest(REQUEST_ID, "default", PARAMETERS, TENSOR_REF, attempt=2**64 - 2)
PICTURED = replace(
    PARAMETERS, images=(ImageDescription(width=64, height=48, size_bytes=7, checksum_xxh3=5),) * 2
)
ENCODE_IMAGE = EncodeImageRequest(REQUEST_ID, "default", PICTURED, 1, b"picture", attempt=3)
PREVIEW = DrawPreviewRequest(REQUEST_ID, "default", PARAMETERS, TENSOR_REF, attempt=4)
DECODE = DecodeRequest(REQUEST_ID, "default", PARAMETERS, TENSOR_REF, attempt=5)


async def _all(events: AsyncGenerator[Any, None]) -> list[Any]:
    async with aclosing(events):
        return [event async for event in events]


async def test_an_encoder_is_the_same_over_the_wire(tmp_path: Path) -> None:
    async with encoder_panel(tmp_path) as panel:
        assert await panel.remote.encode(ENCODE, SOON) == await ScriptedEncoder().encode(
            ENCODE, SOON
        )
        assert panel.replica.requests == [ENCODE]


async def test_a_denoiser_is_the_same_over_the_wire(tmp_path: Path) -> None:
    async with denoiser_panel(tmp_path) as panel:
        events = await _all(panel.remote.denoise(DENOISE, SOON))
        assert events == await _all(ScriptedDenoiser().denoise(DENOISE, SOON))
        assert panel.replica.requests == [DENOISE]


async def test_a_vae_is_the_same_over_the_wire(tmp_path: Path) -> None:
    async with vae_panel(tmp_path) as panel:
        events = await _all(panel.remote.decode(DECODE, SOON))
        assert events == await _all(ScriptedVae().decode(DECODE, SOON))
        assert panel.replica.requests == [DECODE]


async def test_previews_are_the_same_over_the_wire(tmp_path: Path) -> None:
    async with denoiser_panel(tmp_path) as panel:
        panel.replica.previews = [PreviewLatents(step, ref) for step, ref in PREVIEWS.items()]
        events = await _all(panel.remote.denoise(DENOISE, SOON))
        assert [each for each in events if isinstance(each, PreviewLatents)] == (
            panel.replica.previews
        )
    async with vae_panel(tmp_path) as panel:
        assert await panel.remote.draw_preview(PREVIEW, SOON) == PICTURE
        assert panel.replica.preview_requests == [PREVIEW]


async def test_a_replicas_report_is_the_same_over_the_wire(tmp_path: Path) -> None:
    async with denoiser_panel(tmp_path) as panel:
        assert await panel.remote.capacity(SOON) == panel.replica.capacity_now


async def test_a_release_reaches_the_store(tmp_path: Path) -> None:
    async with vae_panel(tmp_path) as panel:
        assert await panel.remote.release("default", REQUEST_ID, SOON) == 2
        assert f"release default {REQUEST_ID}" in panel.store.told


async def test_the_store_tells_how_full_it_is(tmp_path: Path) -> None:
    async with vae_panel(tmp_path) as panel, open_channel(panel.told.listen) as channel:
        stub: Any = tensor_store_service_pb2_grpc.TensorStoreServiceStub(channel)
        answer = await stub.Stat(tensor_store_service_pb2.StatRequest(), timeout=20)
    assert (answer.tensor_store, answer.stored_count) == (STATS.identity, STATS.stored_count)
    assert (answer.stored_bytes, answer.pooled_bytes) == (STATS.stored_bytes, STATS.pooled_bytes)
    assert answer.quota_bytes == STATS.quota_bytes


async def test_closing_the_stream_stops_the_denoiser(tmp_path: Path) -> None:
    async with denoiser_panel(tmp_path) as panel:
        panel.replica.waits = True
        events = panel.remote.denoise(DENOISE, SOON)
        await anext(events)
        await panel.replica.reached.wait()
        await events.aclose()
        await panel.replica.stopped.wait()


async def test_a_stages_error_comes_back_as_it_was(tmp_path: Path) -> None:
    async with denoiser_panel(tmp_path) as panel:
        panel.replica.fails = NotFound("gone")
        with pytest.raises(TriptychError, match="gone") as caught:
            await _all(panel.remote.denoise(DENOISE, SOON))
        assert (caught.value.status, caught.value.reason) == ("NOT_FOUND", "NOT_FOUND")


async def test_a_denoising_can_be_cancelled_by_name(tmp_path: Path) -> None:
    async with denoiser_panel(tmp_path) as panel, open_channel(panel.told.listen) as channel:
        stub: Any = denoiser_service_pb2_grpc.DenoiserServiceStub(channel)
        request = denoiser_service_pb2.CancelRequest(request_id=REQUEST_ID)
        answer = await stub.Cancel(request, timeout=20, metadata=signed(CANCEL, request))
        assert answer.completed_steps == 5
        unknown = denoiser_service_pb2.CancelRequest()
        error = await _refused(stub.Cancel(unknown, timeout=20, metadata=signed(CANCEL, unknown)))
        assert error.status == "NOT_FOUND"


DENOISE_FIELDS = {
    *("request_id", "tenant", "parameters", "conditioning", "image_latents", "image_index"),
    *("attempt", "resume_from", "can_hand_over"),
}


@pytest.mark.parametrize(
    "field",
    sorted({*denoiser_service_pb2.DenoiseRequest.DESCRIPTOR.fields_by_name} - DENOISE_FIELDS),
)
async def test_what_the_denoiser_does_not_serve_is_refused(tmp_path: Path, field: str) -> None:
    message = denoiser_service_pb2.DenoiseRequest()
    descriptor = message.DESCRIPTOR.fields_by_name[field]
    if descriptor.is_repeated:
        getattr(message, field).add()
    elif descriptor.message_type is not None:
        getattr(message, field).SetInParent()
    else:
        setattr(message, field, 1)
    async with denoiser_panel(tmp_path) as panel, open_channel(panel.told.listen) as channel:
        stub: Any = denoiser_service_pb2_grpc.DenoiserServiceStub(channel)
        error = await _refused(stub.Denoise(message, timeout=20))
    assert error.status == "INVALID_ARGUMENT"
    assert [(each.field, each.description) for each in error.violations] == [
        (field, "is not served")
    ]


@pytest.mark.parametrize(
    ("request_id", "tenant", "fields"),
    [
        ("", "", ["request_id", "tenant"]),
        ("../../etc/passwd", "default", ["request_id"]),
        ("A" * 32, "default", ["request_id"]),
        (REQUEST_ID + "\n", "default", ["request_id"]),
        (REQUEST_ID, "a/b", ["tenant"]),
        (REQUEST_ID, "a" * 65, ["tenant"]),
    ],
)
async def test_names_that_could_leave_their_place_are_refused(
    tmp_path: Path, request_id: str, tenant: str, fields: list[str]
) -> None:
    async with encoder_panel(tmp_path) as panel, open_channel(panel.told.listen) as channel:
        encoder: Any = encoder_service_pb2_grpc.EncoderServiceStub(channel)
        store: Any = tensor_store_service_pb2_grpc.TensorStoreServiceStub(channel)
        names: dict[str, Any] = {"request_id": request_id, "tenant": tenant}
        release = tensor_store_service_pb2.ReleaseRequest(**names)
        for call in (
            encoder.Encode(encoder_service_pb2.EncodeRequest(**names), timeout=20),
            store.Release(release, timeout=20, metadata=signed(RELEASE, release)),
        ):
            error = await _refused(call)
            assert error.status == "INVALID_ARGUMENT"
            assert [each.field for each in error.violations] == fields
        assert panel.store.told in ([], ["sweep"])
        assert panel.replica.requests == []


async def test_pictures_reach_every_stage_over_the_wire(tmp_path: Path) -> None:
    pictures = (b"one", b"other")
    encode = replace(ENCODE, parameters=PICTURED, images=pictures)
    async with encoder_panel(tmp_path) as panel:
        await panel.remote.encode(encode, SOON)
        assert panel.replica.requests == [encode]
    async with vae_panel(tmp_path) as panel:
        encoded = await panel.remote.encode_image(ENCODE_IMAGE, SOON)
        assert encoded == await ScriptedVae().encode_image(ENCODE_IMAGE, SOON)
        assert panel.replica.image_requests == [ENCODE_IMAGE]
    denoise = replace(DENOISE, parameters=PICTURED, image_latents=tuple(IMAGE_LATENTS))
    async with denoiser_panel(tmp_path) as panel:
        await _all(panel.remote.denoise(denoise, SOON))
        assert panel.replica.requests == [denoise]


async def test_a_stage_takes_all_pictures_of_a_request_at_their_largest(tmp_path: Path) -> None:
    large = replace(ENCODE, parameters=PICTURED, images=(bytes(MAX_BYTES),) * 2)
    async with encoder_panel(tmp_path) as panel:
        await panel.remote.encode(large, SOON)
        assert panel.replica.requests == [large]


async def test_what_a_language_model_wrote_comes_back_over_the_wire(tmp_path: Path) -> None:
    async with encoder_panel(tmp_path) as panel:
        panel.replica.written_prompt = "a red circle, in oil"
        encoded = await panel.remote.encode(ENCODE, SOON)
        assert encoded.written_prompt == "a red circle, in oil"


async def test_what_was_looked_up_comes_back_over_the_wire(tmp_path: Path) -> None:
    prompts = (
        ConditioningReuse(ConditioningPart.PROMPT, 1, 1),
        ConditioningReuse(ConditioningPart.NEGATIVE_PROMPT, 1, 0),
    )
    image = (ConditioningReuse(ConditioningPart.IMAGE, 1, 1),)
    async with encoder_panel(tmp_path) as panel:
        panel.replica.conditioning_reuse = prompts
        encoded = await panel.remote.encode(ENCODE, SOON)
        assert encoded.conditioning_reuse == prompts
    async with vae_panel(tmp_path) as panel:
        panel.replica.conditioning_reuse = image
        encoded = await panel.remote.encode_image(ENCODE_IMAGE, SOON)
        assert encoded.conditioning_reuse == image


async def test_a_malformed_answer_is_the_stages_failure_and_not_the_requests(
    tmp_path: Path,
) -> None:
    async with encoder_panel(tmp_path) as panel:
        forged = replace(loaded().model)
        object.__setattr__(forged, "name", "no/such name")
        nameless = replace(loaded(), model=forged)
        panel.replica.capacity_now = replace(panel.replica.capacity_now, models=(nameless,))
        with pytest.raises(TriptychError, match="sent a malformed answer") as caught:
            await panel.remote.capacity(SOON)
        assert caught.value.status == "INTERNAL"


async def _refused(call: Any) -> TriptychError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    return error_of(caught.value, Stage.DENOISER, "nowhere")
