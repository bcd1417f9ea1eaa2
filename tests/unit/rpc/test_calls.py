import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from services.observability.logs import get_logger
from services.rpc.interceptors import REQUEST_ID_METADATA
from services.rpc.status import error_of
from tests.unit.rpc.serving import (
    DENOISER,
    ENCODER,
    Streaming,
    Unary,
    denoiser,
    encoder,
    serving,
    settings,
)
from triptych.domain import errors
from triptych.domain.errors import FieldViolation, TriptychError
from triptych.v1 import denoiser_service_pb2, encoder_service_pb2, tensor_pb2

ERRORS = [
    errors.InvalidRequest(
        [FieldViolation("width", "is 33; größer"), FieldViolation("seed", "is -1")]
    ),
    errors.ModelNotFound("mona", ["painter"]),
    errors.TensorNotFound("tensors: gone"),
    errors.TensorRefused("forged"),
    errors.TensorCorrupted("differs"),
    errors.StoreFull("full"),
    errors.QueueFull("encoder", 3, retry_after_seconds=2.5),
    errors.StageUnavailable("draining"),
    errors.RanksLost("a rank died"),
    errors.DeadlineExceeded("late"),
    errors.Cancelled("left"),
    errors.Unsupported("not yet"),
    errors.ConfigurationError("no common store"),
    errors.RemoteFailure("passed on", status="ABORTED", reason="OTHER", retry_after_seconds=0.25),
    TriptychError("own defect"),
]


class Scripted:
    """Handlers that say one thing, then fail."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def unary(self, request: Any, context: Any) -> Any:
        raise self._error

    async def stream(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        yield denoiser_service_pb2.DenoiseResponse()
        raise self._error


async def _unary_failure(tmp_path: Path, error: BaseException) -> grpc.aio.AioRpcError:
    async with serving(settings(tmp_path), Unary(Scripted(error).unary)) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await encoder(channel).Encode(encoder_service_pb2.EncodeRequest(), timeout=20)
        return caught.value


async def _stream_failure(tmp_path: Path, error: BaseException) -> grpc.aio.AioRpcError:
    async with serving(settings(tmp_path), Streaming(Scripted(error).stream)) as (_, channel):
        call = denoiser(channel).Denoise(denoiser_service_pb2.DenoiseRequest(), timeout=20)
        await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        return caught.value


either_way = pytest.mark.parametrize("failure", [_unary_failure, _stream_failure])


@either_way
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_an_error_comes_back_as_it_was_raised(
    tmp_path: Path, failure: Any, error: TriptychError
) -> None:
    back = error_of(await failure(tmp_path, error), "encoder", "nowhere")
    assert (back.status, back.reason) == (error.status, error.reason)
    assert str(back) == str(error)
    assert tuple(back.violations) == tuple(error.violations)
    assert back.retry_after_seconds == error.retry_after_seconds


@either_way
async def test_a_defect_is_an_internal_error_that_tells_the_log_but_not_the_client(
    tmp_path: Path, failure: Any
) -> None:
    with structlog.testing.capture_logs() as lines:
        caught = await failure(tmp_path, RuntimeError("the password is swordfish"))
    assert caught.code() is grpc.StatusCode.INTERNAL
    assert "swordfish" not in repr((caught.details(), caught.trailing_metadata()))
    failed = [line for line in lines if line["log_level"] == "error"]
    assert ["swordfish" in repr(line["exc_info"]) for line in failed] == [True]


@either_way
async def test_an_error_that_quotes_a_huge_input_still_arrives(
    tmp_path: Path, failure: Any
) -> None:
    error = errors.ModelNotFound("é" * 100_000, ["painter"])
    back = error_of(await failure(tmp_path, error), "encoder", "nowhere")
    assert (back.status, back.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert "model: 'éé" in str(back)


@either_way
@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidRequest(
            [FieldViolation(f"images[{n}]", "has no pixels") for n in range(5000)]
        ),
        errors.InvalidRequest([FieldViolation("😀" * 5000, "😀" * 5000)] * 50),
        errors.StageUnavailable("😀" * 5000),
    ],
    ids=["many", "long and many", "long"],
)
async def test_however_much_is_wrong_the_answer_arrives(
    tmp_path: Path, failure: Any, error: TriptychError
) -> None:
    back = error_of(await failure(tmp_path, error), "encoder", "nowhere")
    assert (back.status, back.reason) == (error.status, error.reason)
    assert str(back)[:50] == str(error)[:50]
    if error.violations:
        *told, last = back.violations
        assert told
        left = len(error.violations) - len(told)
        assert (last.field, last.description) == ("…", f"{left} more are not allowed")


async def test_bytes_that_are_no_message_are_a_bad_request(tmp_path: Path) -> None:
    async def handle(request: Any, context: Any) -> Any:
        pytest.fail("it was read as a message")

    async def stream(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        pytest.fail("it was read as a message")
        yield

    served = (Unary(handle), Streaming(stream))
    with structlog.testing.capture_logs() as lines:
        async with serving(settings(tmp_path), *served) as (_, channel):
            for call in (
                channel.unary_unary(f"/{ENCODER}/Encode")(b"\xff", timeout=20),
                channel.unary_unary(f"/{DENOISER}/Denoise")(b"\xff", timeout=20),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call
                back = error_of(caught.value, "encoder", "nowhere")
                assert (back.status, back.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
                assert str(back) == "request: cannot be read as the message that the method takes"
    assert not [line for line in lines if line["log_level"] == "error"]


async def test_a_stage_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as (server, channel):
        await server.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await encoder(channel).Encode(encoder_service_pb2.EncodeRequest(), timeout=20)
    back = error_of(caught.value, "encoder", "unix:/socket")
    assert (back.status, back.reason) == ("UNAVAILABLE", "STAGE_UNAVAILABLE")
    assert str(back) == "the encoder at unix:/socket is down; repeat the request later"
    assert back.retry_after_seconds == 1.0


async def test_a_method_that_is_not_there_is_a_failure_of_the_stage(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await encoder(channel).Encode(encoder_service_pb2.EncodeRequest(), timeout=20)
    back = error_of(caught.value, "encoder", "unix:/socket")
    assert (back.status, back.reason) == ("UNIMPLEMENTED", "STAGE_FAILED")


async def test_a_deadline_that_passes_reaches_caller_and_handler(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def stuck(request: Any, context: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(settings(tmp_path), Unary(stuck)) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await encoder(channel).Encode(encoder_service_pb2.EncodeRequest(), timeout=0.2)
        await asyncio.wait_for(ended.wait(), 20)
    back = error_of(caught.value, "encoder", "nowhere")
    assert (back.status, back.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")


async def test_a_client_that_leaves_closes_a_handler_that_waits(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def handle(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        try:
            yield denoiser_service_pb2.DenoiseResponse()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(settings(tmp_path), Streaming(handle)) as (_, channel):
        call = denoiser(channel).Denoise(denoiser_service_pb2.DenoiseRequest(), timeout=60)
        await call.read()
        call.cancel()
        await asyncio.wait_for(ended.wait(), 20)


async def test_a_client_that_leaves_closes_a_handler_it_did_not_keep_up_with(
    tmp_path: Path,
) -> None:
    ended = asyncio.Event()
    latents = tensor_pb2.TensorRef(inline_blob=b"x" * 1_000_000)
    preview = denoiser_service_pb2.PreviewLatents(latents=latents)
    event = denoiser_service_pb2.DenoiseResponse(preview=preview)

    async def handle(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        try:
            while True:
                yield event
        finally:
            ended.set()

    async with serving(settings(tmp_path), Streaming(handle)) as (_, channel):
        call = denoiser(channel).Denoise(denoiser_service_pb2.DenoiseRequest(), timeout=60)
        await call.read()
        call.cancel()
        await asyncio.wait_for(ended.wait(), 20)


async def test_the_callers_request_id_is_on_the_lines_of_its_call_alone(tmp_path: Path) -> None:
    log = get_logger("test")
    both_inside = asyncio.Barrier(2)

    async def handle(request: Any, context: Any) -> Any:
        await both_inside.wait()
        log.info("handled", tenant=request.tenant)
        return encoder_service_pb2.EncodeResponse()

    processors = [structlog.contextvars.merge_contextvars]
    with structlog.testing.capture_logs(processors=processors) as lines:
        async with serving(settings(tmp_path), Unary(handle)) as (_, channel):
            calls = [
                encoder(channel).Encode(
                    encoder_service_pb2.EncodeRequest(tenant=each),
                    timeout=20,
                    metadata=((REQUEST_ID_METADATA, f"id-of-{each}"),),
                )
                for each in ("a", "b")
            ]
            await asyncio.gather(*calls)
            log.info("outside")
    handled = {each["tenant"]: each["request_id"] for each in lines if each["event"] == "handled"}
    assert handled == {"a": "id-of-a", "b": "id-of-b"}
    assert ["request_id" in each for each in lines if each["event"] == "outside"] == [False]
