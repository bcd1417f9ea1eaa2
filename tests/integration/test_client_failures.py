"""What the clients make of a cluster that refuses, fails, or cannot be reached."""

from collections.abc import Callable

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2

from tests.integration.client_flavours import (
    FLAVOURS,
    Flavour,
    never_ending,
    playing,
    refusing,
    was_cancelled,
)
from tests.integration.scripted_cluster import (
    PICTURE,
    ScriptedGateway,
    artifact_chunks,
    completed,
    duration,
    event,
    serving,
    successful_run,
)
from triptych import (
    ArtifactCorruptedError,
    CancelledError,
    DeadlineExceededError,
    FieldViolation,
    InternalError,
    InvalidRequestError,
    ModelNotFoundError,
    ResourceExhaustedError,
    TriptychError,
    UnavailableError,
    UnimplementedError,
)
from triptych.v1 import generation_service_pb2 as messages
from triptych.v1 import job_pb2


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    return request.param()


@pytest.mark.parametrize(
    ("responses", "said"),
    [
        ([*artifact_chunks(PICTURE[:-1] + b"!"), completed()], "checksum"),
        ([*artifact_chunks(PICTURE[:-1]), completed()], f"with {len(PICTURE) - 1} bytes"),
        ([*list(artifact_chunks())[::2], completed()], "continued at byte"),
        ([*artifact_chunks(), *artifact_chunks(), completed()], "continued at byte 0;"),
        ([completed()], "with 0 bytes"),
    ],
    ids=["changed", "too short", "a chunk lost", "sent twice", "no bytes at all"],
)
async def test_damaged_artifact_is_never_returned(
    flavour: Flavour, responses: list[messages.GenerateResponse], said: str
) -> None:
    async with serving(ScriptedGateway(playing(*responses))) as target:
        with pytest.raises(ArtifactCorruptedError, match=said):
            await flavour.generate(target)


async def test_stream_that_ends_early_is_an_error(flavour: Flavour) -> None:
    async with serving(ScriptedGateway(playing(*list(successful_run())[:-1]))) as target:
        with pytest.raises(InternalError, match="without a result"):
            await flavour.generate(target)


async def test_invalid_request_names_every_field(flavour: Flavour) -> None:
    violations = [
        ("width", "is 100; allowed are multiples of 16"),
        ("steps", "is 0; allowed are 2"),
    ]
    details = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            for field, description in violations
        ]
    )
    script = refusing(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "bad", details)
    async with serving(ScriptedGateway(script)) as target:
        with pytest.raises(InvalidRequestError) as refused:
            await flavour.generate(target)
    assert refused.value.violations == tuple(FieldViolation(*each) for each in violations)


async def test_overload_says_when_to_try_again(flavour: Flavour) -> None:
    details = error_details_pb2.RetryInfo(retry_delay=duration(2.5))
    script = refusing(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "the queue is full", details
    )
    async with serving(ScriptedGateway(script)) as target:
        with pytest.raises(ResourceExhaustedError, match="the queue is full") as refused:
            await flavour.generate(target)
    assert refused.value.retry_after_seconds == 2.5
    assert refused.value.reason == "QUEUE_FULL"


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", ModelNotFoundError),
        (grpc.StatusCode.UNAVAILABLE, "STAGE_UNAVAILABLE", UnavailableError),
        (grpc.StatusCode.CANCELLED, "CANCELLED", CancelledError),
        (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", UnimplementedError),
        (grpc.StatusCode.DATA_LOSS, "TENSOR_CORRUPTED", InternalError),
    ],
)
async def test_each_status_is_its_own_error(
    flavour: Flavour, code: grpc.StatusCode, reason: str, error: type[TriptychError]
) -> None:
    async with serving(ScriptedGateway(refusing(code, reason, "a sentence"))) as target:
        with pytest.raises(error, match=r"^a sentence$") as refused:
            await flavour.generate(target)
    assert refused.value.reason == reason


async def test_failed_job_raises_what_the_event_says(flavour: Flavour) -> None:
    failed = job_pb2.JobFailed(status="UNAVAILABLE", reason="RANKS_LOST", message="a rank died")
    async with serving(ScriptedGateway(playing(event(failed=failed)))) as target:
        with pytest.raises(UnavailableError, match="a rank died") as raised:
            await flavour.generate(target)
    assert raised.value.reason == "RANKS_LOST"


async def test_job_that_somebody_else_cancelled_is_an_error(flavour: Flavour) -> None:
    cancelled = event(cancelled=job_pb2.JobCancelled(completed_steps=4))
    async with serving(ScriptedGateway(playing(cancelled))) as target:
        with pytest.raises(CancelledError, match="after 4 steps"):
            await flavour.generate(target)


async def test_deadline_ends_the_call_and_the_job(flavour: Flavour) -> None:
    gateway = ScriptedGateway(never_ending)
    async with serving(gateway) as target:
        with pytest.raises(DeadlineExceededError, match="deadline passed"):
            await flavour.generate(target, timeout=0.5)
        await was_cancelled(gateway)


async def test_unreachable_cluster_is_named(
    flavour: Flavour, unused_tcp_port_factory: Callable[[], int]
) -> None:
    target = f"127.0.0.1:{unused_tcp_port_factory()}"
    with pytest.raises(UnavailableError, match=f"the cluster at {target} cannot be reached"):
        await flavour.generate(target)


async def test_server_that_is_no_gateway_is_told_apart(flavour: Flavour) -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(UnimplementedError, match="is a Triptych server"):
            await flavour.generate(f"127.0.0.1:{port}")
    finally:
        await server.stop(grace=0)


async def test_unknown_model_is_reported_as_not_found(flavour: Flavour) -> None:
    async with serving(ScriptedGateway(playing())) as target:
        with pytest.raises(ModelNotFoundError, match="served models: demo"):
            await flavour.model(target, "other")
