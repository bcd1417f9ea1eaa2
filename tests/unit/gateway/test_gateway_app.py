import asyncio
from pathlib import Path

import grpc
import pytest

from services.gateway.app import GatewayApp
from tests.unit.gateway.running_gateway import (
    NOT_SERVING,
    SERVING,
    Settings,
    failure_of,
    running_gateway,
)
from tests.unit.gateway.scripted_stages import ScriptedCluster
from triptych.domain.errors import QueueFull
from triptych.v1 import generation_service_pb2

SERVED = {"Generate", "ListModels", "GetModel", "UploadImage", "DownloadArtifact"}


async def test_generate_streams_events_chunks_and_the_result(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        answers = [answer async for answer in gateway.generate(seed=7)]
    events = [answer.event for answer in answers if answer.HasField("event")]
    chunks = [answer.artifact_chunk for answer in answers if answer.HasField("artifact_chunk")]
    assert [each.sequence for each in events] == list(range(1, len(events) + 1))
    assert len({each.job_id for each in events}) == 1
    assert all(each.HasField("event_time") for each in events)
    assert [each.WhichOneof("event") for each in events] == [
        "accepted",
        "stage_started",
        "stage_completed",
        "stage_started",
        "step_completed",
        "step_completed",
        "stage_completed",
        "stage_started",
        "stage_completed",
        "completed",
    ]
    assert b"".join(each.data for each in chunks) == b"abcdef"
    assert [each.HasField("artifact") for each in chunks] == [True]
    result = events[-1].completed.result
    assert result.parameters == events[0].accepted.parameters
    assert (result.parameters.seed, result.parameters.steps) == (7, 20)
    assert result.latents_checksum_xxh3 == 77
    assert result.total_duration.ToNanoseconds() > 0


async def test_a_refused_request_names_every_field(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        error = await failure_of(gateway.generate(prompt="", width=33, steps=1))
    assert (error.status, error.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST")
    assert {each.field for each in error.violations} == {"prompt", "width", "steps"}


async def test_a_stages_refusal_arrives_with_its_retry_time(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.cluster.denoiser.refuses = QueueFull("denoiser", 3, 2.5)
        error = await failure_of(gateway.generate())
    assert (error.status, error.reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
    assert error.retry_after_seconds == 2.5


async def test_a_client_that_leaves_stops_the_stage_at_work(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.cluster.denoiser.waits = True
        call = gateway.generate()
        await call.read()
        await gateway.cluster.denoiser.reached.wait()
        call.cancel()
        await gateway.cluster.denoiser.stopped.wait()
        await gateway.cluster.vae.release_asked.wait()


async def test_the_calls_deadline_is_the_jobs(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        async for _ in gateway.generate():
            pass
        (deadline,) = gateway.cluster.encoder.deadlines
        # gRPC rounds what it puts on the wire up to two or three digits.
        assert 15 < deadline.remaining_seconds() < 25


async def test_models_are_listed_and_read(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        listed = await gateway.stub.ListModels(generation_service_pb2.ListModelsRequest())
        asked = generation_service_pb2.GetModelRequest(name="painter")
        read = await gateway.stub.GetModel(asked)
        assert [each.name for each in listed.models] == ["painter"]
        assert listed.models[0] == read.model
        assert read.model.capabilities.defaults.steps == 20


@pytest.mark.parametrize("name", ["mona", ""])
async def test_an_unknown_model_is_not_found_and_told_what_is_served(
    tmp_path: Path, name: str
) -> None:
    async with running_gateway(tmp_path) as gateway:
        request = generation_service_pb2.GetModelRequest(name=name)
        error = await failure_of(gateway.stub.GetModel(request))
        assert (error.status, error.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert str(error).startswith("model: ")
        assert str(error).endswith("; served models: painter")
        if name:
            assert (await failure_of(gateway.generate(model=name))).reason == "MODEL_NOT_FOUND"


async def test_the_gateway_is_healthy_while_a_model_can_be_served(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.cluster.vae.capacity_now, up = None, gateway.cluster.vae.capacity_now
        await gateway.until_health_is(NOT_SERVING)
        error = await failure_of(
            gateway.stub.ListModels(generation_service_pb2.ListModelsRequest())
        )
        assert (error.status, str(error)) == (
            "UNAVAILABLE",
            "nothing is served yet: the vae of painter is down",
        )
        error = await failure_of(gateway.generate())
        assert (error.status, error.reason) == ("UNAVAILABLE", "STAGE_UNAVAILABLE")
        gateway.cluster.vae.capacity_now = up
        await gateway.until_health_is(SERVING)


async def test_a_defect_in_the_watch_over_the_stages_ends_the_process(tmp_path: Path) -> None:
    told = Settings(listen=f"unix:{tmp_path}/socket")
    cluster = ScriptedCluster()
    cluster.vae.capacity_now = None
    cluster.vae.capacity_fails = RuntimeError("a bug")
    app = GatewayApp(told, [cluster.encoder], [cluster.denoiser], [cluster.vae])
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(app.run(), 20)


async def test_a_call_under_way_outlives_the_signal_to_end(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.cluster.encoder.may_release.clear()
        call = gateway.generate()
        await call.read()
        await gateway.cluster.encoder.release_asked.wait()
        gateway.app.server.stop()
        await gateway.until_health_is(NOT_SERVING)
        gateway.cluster.encoder.may_release.set()
        kinds = []
        while (answer := await call.read()) is not grpc.aio.EOF:
            kinds.append(answer.event.WhichOneof("event"))
        assert kinds[-1] == "completed"
