import asyncio
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.rpc.channels import open_channel
from services.rpc.server import ServiceServer
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
from triptych.domain.errors import ConfigurationError
from triptych.v1 import denoiser_service_pb2, encoder_service_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Gated:
    """A handler that begins, then waits for the test."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()

    async def handle(self, request: Any, context: Any) -> Any:
        self.began.set()
        await self.may_end.wait()
        return encoder_service_pb2.EncodeResponse()


async def _health(channel: grpc.aio.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
    return int(answer.status)


def _encode(channel: grpc.aio.Channel) -> Any:
    return encoder(channel).Encode(encoder_service_pb2.EncodeRequest(), timeout=60)


@pytest.mark.parametrize("service", ["", ENCODER, DENOISER])
async def test_health_follows_what_the_process_says(tmp_path: Path, service: str) -> None:
    async with serving(settings(tmp_path)) as (server, channel):
        assert await _health(channel, service) == NOT_SERVING
        await server.set_serving(serving=True)
        assert await _health(channel, service) == SERVING
        await server.set_serving(serving=False)
        assert await _health(channel, service) == NOT_SERVING


async def test_calls_beyond_the_bound_are_refused_and_health_answers(tmp_path: Path) -> None:
    gated = Gated()
    told = settings(tmp_path, max_concurrent_calls=1)
    async with serving(told, Unary(gated.handle)) as (server, channel):
        await server.set_serving(serving=True)
        call = _encode(channel)
        await gated.began.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _encode(channel)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "max_concurrent_calls allows no more" in str(caught.value.details())
        assert await _health(channel, "") == SERVING
        gated.may_end.set()
        assert await call == encoder_service_pb2.EncodeResponse()
        assert await _encode(channel) == encoder_service_pb2.EncodeResponse()


async def test_a_caller_that_leaves_gives_its_place_to_others(tmp_path: Path) -> None:
    began: asyncio.Queue[None] = asyncio.Queue()

    async def denoise(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        yield denoiser_service_pb2.DenoiseResponse()
        began.put_nowait(None)
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    told = settings(tmp_path, max_concurrent_calls=1)
    async with serving(told, Streaming(denoise)) as (_, channel):
        for _ in range(3):
            left = asyncio.Event()
            call = denoiser(channel).Denoise(denoiser_service_pb2.DenoiseRequest(), timeout=60)
            assert await call.read() == denoiser_service_pb2.DenoiseResponse()
            await began.get()
            call.cancel()
            await left.wait()


async def test_a_draining_server_finishes_its_calls_and_takes_no_more(tmp_path: Path) -> None:
    gated = Gated()
    told = settings(tmp_path)
    async with serving(told, Unary(gated.handle)) as (server, channel):
        await server.set_serving(serving=True)
        running = asyncio.create_task(server.run())
        call = _encode(channel)
        await gated.began.wait()
        server.stop()
        await _until_refused(told.listen)
        assert not running.done()
        gated.may_end.set()
        assert await call == encoder_service_pb2.EncodeResponse()
        await asyncio.wait_for(running, 20)


async def test_a_call_that_outlasts_the_drain_is_ended(tmp_path: Path) -> None:
    gated = Gated()
    told = settings(tmp_path, drain_seconds=0.1)
    async with serving(told, Unary(gated.handle)) as (server, channel):
        running = asyncio.create_task(server.run())
        call = _encode(channel)
        await gated.began.wait()
        server.stop()
        await asyncio.wait_for(running, 20)
        with pytest.raises(grpc.aio.AioRpcError):
            await call


async def test_a_draining_server_reports_not_serving_whatever_the_process_says(
    tmp_path: Path,
) -> None:
    gated = Gated()
    async with serving(settings(tmp_path), Unary(gated.handle)) as (server, channel):
        await server.set_serving(serving=True)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        running = asyncio.create_task(server.run())
        call = _encode(channel)
        await gated.began.wait()
        server.stop()
        assert (await watch.read()).status == NOT_SERVING
        await server.set_serving(serving=True)
        watch.cancel()
        gated.may_end.set()
        await call
        await asyncio.wait_for(running, 20)


async def test_somebody_who_watches_the_health_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with serving(settings(tmp_path, drain_seconds=3600)) as (server, channel):
        running = asyncio.create_task(server.run())
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        server.stop()
        await asyncio.wait_for(running, 20)


async def test_an_address_that_is_taken_is_a_configuration_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        server = ServiceServer("encoder", settings(tmp_path, listen=listen), ())
        with pytest.raises(ConfigurationError, match=f"listen: cannot listen on {listen}"):
            await server.start()
        await server.close()


async def test_a_socket_file_that_is_served_is_taken_too(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as (_, channel):
        second = ServiceServer("encoder", settings(tmp_path), ())
        with pytest.raises(ConfigurationError, match="listen: cannot listen on unix:"):
            await second.start()
        await second.close()
        assert await _health(channel, "") == NOT_SERVING


@pytest.mark.parametrize("listen", ["nowhere", "unix:/no/such/directory/socket"])
async def test_what_is_no_address_is_a_configuration_error(tmp_path: Path, listen: str) -> None:
    server = ServiceServer("encoder", settings(tmp_path, listen=listen), ())
    with pytest.raises(ConfigurationError, match="listen: cannot listen on"):
        await server.start()
    await server.close()


async def test_reflection_lists_the_services(tmp_path: Path) -> None:
    async with serving(settings(tmp_path)) as (_, channel):
        listed = await _reflected(channel)
    assert {ENCODER, DENOISER, "grpc.health.v1.Health"} <= listed


def test_reflection_is_off_where_strangers_are_kept_out_unless_told(tmp_path: Path) -> None:
    closed: dict[str, Any] = {"tls_cert_file": tmp_path / "cert", "tls_key_file": tmp_path / "key"}
    assert settings(tmp_path).reflects
    assert not settings(tmp_path, **closed).reflects
    assert settings(tmp_path, **closed, reflection=True).reflects
    assert not settings(tmp_path, reflection=False).reflects


async def test_reflection_can_be_switched_off(tmp_path: Path) -> None:
    async with serving(settings(tmp_path, reflection=False)) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _reflected(channel)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def _reflected(channel: grpc.aio.Channel) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(timeout=20)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await call.read()
    await call.done_writing()
    assert isinstance(answer, reflection_pb2.ServerReflectionResponse)
    return {each.name for each in answer.list_services_response.service}


async def _until_refused(listen: str) -> None:
    """Returns once a fresh connection is turned away; hangs, and fails by timeout, if none is."""
    while True:
        async with open_channel(listen) as channel:
            try:
                await _health(channel, "")
            except grpc.aio.AioRpcError as error:
                # gRPC cancels what it had accepted a moment before; error_of knows both.
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    return
                raise
