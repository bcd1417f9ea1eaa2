import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from services.rpc.channels import open_channel
from services.rpc.status import error_of
from tests.unit.domain.examples import REQUEST_ID
from tests.unit.rpc.panel import CANCEL, DRAIN, RELEASE, denoiser_panel, signed, vae_panel
from triptych.cli.app import app
from triptych.domain.call_seal import SIGNATURE_METADATA, CallSeal
from triptych.domain.deadline import Deadline
from triptych.domain.errors import TriptychError
from triptych.v1 import (
    denoiser_service_pb2,
    denoiser_service_pb2_grpc,
    stage_service_pb2,
    stage_service_pb2_grpc,
    tensor_store_service_pb2,
    tensor_store_service_pb2_grpc,
)

SOON = Deadline.after(24 * 3600)


async def _refused(call: Any) -> TriptychError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_of(caught.value, "stage", "nowhere")


async def test_a_stage_is_drained_by_whom_its_log_says_and_that_may_be_repeated(
    tmp_path: Path,
) -> None:
    async with vae_panel(tmp_path) as panel, open_channel(panel.told.listen) as channel:
        panel.replica.capacity_now = replace(
            panel.replica.capacity_now, running_requests=1, queued_requests=2
        )
        with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
            for _ in range(2):
                assert await panel.remote.drain(SOON) == 3
        assert panel.replica.drained
        drained = [line for line in lines if line["event"] == "drained"]
        assert [(line["method"], line["peer"]) for line in drained] == [(DRAIN, "unix:")] * 2
        health = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=20
        )
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_calls_that_nobody_signed_change_nothing(tmp_path: Path) -> None:
    drain = stage_service_pb2.DrainRequest()
    release = tensor_store_service_pb2.ReleaseRequest(tenant="default", request_id=REQUEST_ID)
    cancel = denoiser_service_pb2.CancelRequest(request_id=REQUEST_ID)
    async with denoiser_panel(tmp_path) as panel, open_channel(panel.told.listen) as channel:
        stage: Any = stage_service_pb2_grpc.StageServiceStub(channel)
        store: Any = tensor_store_service_pb2_grpc.TensorStoreServiceStub(channel)
        denoiser: Any = denoiser_service_pb2_grpc.DenoiserServiceStub(channel)
        for method, call, request in (
            (DRAIN, stage.Drain, drain),
            (RELEASE, store.Release, release),
            (CANCEL, denoiser.Cancel, cancel),
        ):
            arguments = request.SerializeToString()
            forged = CallSeal("another secret").sign(method, arguments)
            with structlog.testing.capture_logs() as lines:
                for metadata in ((), ((SIGNATURE_METADATA, forged),)):
                    error = await _refused(call(request, timeout=20, metadata=metadata))
                    assert (error.status, error.reason) == ("PERMISSION_DENIED", "CALL_REFUSED")
            assert [line["event"] for line in lines] == ["refused"] * 2
        assert not panel.replica.drained
        assert panel.store.told in ([], ["sweep"])


async def test_a_signature_is_for_one_call_alone(tmp_path: Path) -> None:
    release = tensor_store_service_pb2.ReleaseRequest(tenant="default", request_id=REQUEST_ID)
    other = tensor_store_service_pb2.ReleaseRequest(tenant="other", request_id=REQUEST_ID)
    metadata = signed(RELEASE, release)
    async with vae_panel(tmp_path) as panel, open_channel(panel.told.listen) as channel:
        store: Any = tensor_store_service_pb2_grpc.TensorStoreServiceStub(channel)
        error = await _refused(store.Release(other, timeout=20, metadata=metadata))
        assert error.reason == "CALL_REFUSED"
        await store.Release(release, timeout=20, metadata=metadata)
        error = await _refused(store.Release(release, timeout=20, metadata=metadata))
        assert "used before" in str(error)


async def test_a_drain_is_for_one_replica_alone(tmp_path: Path) -> None:
    request = stage_service_pb2.DrainRequest(instance_id="a" * 32)
    async with vae_panel(tmp_path) as panel, open_channel(panel.told.listen) as channel:
        stub: Any = stage_service_pb2_grpc.StageServiceStub(channel)
        call = stub.Drain(request, timeout=20, metadata=signed(DRAIN, request))
        error = await _refused(call)
        assert [each.field for each in error.violations] == ["instance_id"]
        assert not panel.replica.drained


async def test_the_command_line_drains_a_stage_with_the_secret_and_not_with_another(
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    other.write_text("another secret of 32 characters...")
    async with vae_panel(tmp_path) as panel:
        command = ["drain", panel.told.listen, "--cluster-secret-file"]
        run = partial(asyncio.to_thread, CliRunner().invoke, app)
        refused = await run([*command, str(other)])
        assert refused.exit_code != 0
        assert "the signature is not this cluster's" in refused.output
        assert not panel.replica.drained
        drained = await run([*command, str(panel.told.cluster_secret_file)])
        assert (drained.exit_code, panel.replica.drained) == (0, True), drained.output
