"""What clients do with jobs, through the gateway's door."""

import asyncio
import hashlib
import json
import random
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.s3_server import new_prefix, shared_s3_server
from tests.unit.gateway.running_gateway import Gateway, failure_of, running_gateway
from triptych.v1 import generation_pb2, job_pb2
from triptych.v1 import generation_service_pb2 as pb2

QUEUED, RUNNING = job_pb2.JOB_STATE_QUEUED, job_pb2.JOB_STATE_RUNNING
SUCCEEDED, CANCELLED = job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_CANCELLED
KEYS = {"alice": "alice's key", "bob": "bob's key"}


def _order(client_request_id: str = "", **parameters: Any) -> pb2.SubmitJobRequest:
    told = {"prompt": "a red circle", "seed": 7} | parameters
    return pb2.SubmitJobRequest(
        client_request_id=client_request_id,
        parameters=generation_pb2.GenerationParameters(**told),
    )


async def _submitted(gateway: Gateway, order: pb2.SubmitJobRequest) -> job_pb2.Job:
    answer = await gateway.stub.SubmitJob(order, timeout=20, metadata=gateway.metadata)
    job: job_pb2.Job = answer.job
    return job


async def _events(gateway: Gateway, job_id: str, after: int = 0) -> list[job_pb2.JobEvent]:
    request = pb2.WatchJobRequest(job_id=job_id, after_sequence=after)
    call = gateway.stub.WatchJob(request, timeout=20, metadata=gateway.metadata)
    return [answer.event async for answer in call]


async def _job(gateway: Gateway, job_id: str) -> job_pb2.Job:
    request = pb2.GetJobRequest(job_id=job_id)
    answer = await gateway.stub.GetJob(request, timeout=20, metadata=gateway.metadata)
    job: job_pb2.Job = answer.job
    return job


async def test_a_job_is_handed_in_watched_read_and_fetched(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        job = await _submitted(gateway, _order())
        assert job.state in (QUEUED, RUNNING)
        assert (job.total_steps, job.parameters.seed) == (20, 7)
        assert job.scheduling.deadline.seconds > time.time() + 3600
        events = await _events(gateway, job.job_id)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert events[-1].WhichOneof("event") == "completed"
        ended = await _job(gateway, job.job_id)
        assert (ended.state, ended.last_sequence) == (SUCCEEDED, len(events))
        assert ended.result == events[-1].completed.result
        (artifact,) = ended.result.artifacts
        call = gateway.stub.DownloadArtifact(
            pb2.DownloadArtifactRequest(artifact_id=artifact.artifact_id), timeout=20
        )
        assert b"".join([answer.chunk.data async for answer in call]) == b"abcdef"


async def test_a_store_that_signs_urls_gives_one_with_the_job(tmp_path: Path) -> None:
    server = shared_s3_server()
    async with running_gateway(tmp_path, artifacts=server.url(new_prefix())) as gateway:
        job = await _submitted(gateway, _order())
        events = await _events(gateway, job.job_id)
        (announced,) = events[-1].completed.result.artifacts
        assert announced.url == "", "it would be kept with the event, and expire"
        (artifact,) = (await _job(gateway, job.job_id)).result.artifacts
        data = await asyncio.to_thread(lambda: urllib.request.urlopen(artifact.url).read())
        assert data == b"abcdef"


async def test_watching_goes_on_after_any_event_without_gap_or_repetition(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        job = await _submitted(gateway, _order())
        events = await _events(gateway, job.job_id)
        for after in range(len(events) + 1):
            assert await _events(gateway, job.job_id, after) == events[after:]
        request = pb2.WatchJobRequest(job_id=job.job_id, after_sequence=len(events) + 1)
        error = await failure_of(gateway.stub.WatchJob(request, timeout=20))
        assert error.status == "INVALID_ARGUMENT"


async def test_the_same_order_from_ten_clients_at_once_is_one_job(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        orders = [_submitted(gateway, _order("mine")) for _ in range(10)]
        jobs = await asyncio.gather(*orders)
        assert len({job.job_id for job in jobs}) == 1
        await _events(gateway, jobs[0].job_id)
        again = await _submitted(gateway, _order("mine"))
        assert (again.job_id, again.state) == (jobs[0].job_id, SUCCEEDED)
        assert len(gateway.cluster.encoder.requests) == 1


async def test_another_order_under_the_same_name_is_refused(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        job = await _submitted(gateway, _order("mine"))
        error = await failure_of(gateway.stub.SubmitJob(_order("mine", seed=8), timeout=20))
        assert (error.status, error.reason) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")
        assert job.job_id in str(error)


async def test_a_cancelled_job_says_so_to_whoever_watches(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.cluster.denoiser.waits = True
        job = await _submitted(gateway, _order())
        await gateway.cluster.denoiser.reached.wait()
        watching = asyncio.create_task(_events(gateway, job.job_id))
        request = pb2.CancelJobRequest(job_id=job.job_id)
        for _ in range(2):
            answer = await gateway.stub.CancelJob(request, timeout=20)
            assert answer.job.state == CANCELLED
        assert (await watching)[-1].cancelled.completed_steps == 1
        await gateway.cluster.denoiser.stopped.wait()


async def test_jobs_are_listed_newest_first_by_state_and_page(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        gateway.cluster.vae.artifact_id = None
        jobs = [await _submitted(gateway, _order(seed=seed)) for seed in range(3)]
        for job in jobs:
            await _events(gateway, job.job_id)
        seen: list[str] = []
        token = ""
        while True:
            request = pb2.ListJobsRequest(page_size=2, page_token=token, states=[SUCCEEDED])
            page = await gateway.stub.ListJobs(request, timeout=20)
            seen += [job.job_id for job in page.jobs]
            if not (token := page.next_page_token):
                break
        assert seen == [job.job_id for job in reversed(jobs)]
        page = await gateway.stub.ListJobs(pb2.ListJobsRequest(states=[QUEUED]), timeout=20)
        assert list(page.jobs) == []


@pytest.mark.parametrize("method", ["GetJob", "WatchJob", "CancelJob"])
@pytest.mark.parametrize("job_id", ["", "f" * 32, "../../etc/passwd", "x" * 5000])
async def test_a_job_that_is_not_there_is_not_found(
    tmp_path: Path, method: str, job_id: str
) -> None:
    async with running_gateway(tmp_path) as gateway:
        request = getattr(pb2, f"{method}Request")(job_id=job_id)
        error = await failure_of(getattr(gateway.stub, method)(request, timeout=20))
        assert (error.status, error.reason) == ("NOT_FOUND", "JOB_NOT_FOUND")


async def test_what_is_wrong_with_an_order_is_told_before_any_work(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        error = await failure_of(gateway.stub.SubmitJob(_order(prompt="", width=33), timeout=20))
        assert {each.field for each in error.violations} == {"prompt", "width"}
        late = _order()
        late.scheduling.deadline.seconds = 1
        error = await failure_of(gateway.stub.SubmitJob(late, timeout=20))
        assert (error.status, str(error)) == (
            "DEADLINE_EXCEEDED",
            "scheduling.deadline has passed",
        )
        named = _order("x" * 129)
        error = await failure_of(gateway.stub.SubmitJob(named, timeout=20))
        assert [each.field for each in error.violations] == ["client_request_id"]
        odd = _order()
        odd.scheduling.priority = 77
        error = await failure_of(gateway.stub.SubmitJob(odd, timeout=20))
        assert error.status == "INVALID_ARGUMENT"
        assert gateway.cluster.encoder.requests == []


def _access_file(tmp_path: Path, **quota: float) -> Path:
    path = tmp_path / "access.json"
    tenants = [
        {"name": name, "key_sha256": [hashlib.sha256(key.encode()).hexdigest()], "quota": quota}
        for name, key in KEYS.items()
    ]
    path.write_text(json.dumps({"tenants": tenants}))
    return path


async def test_tenants_never_see_each_others_jobs(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, access_file=_access_file(tmp_path)) as gateway:
        gateway.metadata = (("authorization", f"Bearer {KEYS['alice']}"),)
        job = await _submitted(gateway, _order("mine"))
        await _events(gateway, job.job_id)
        artifact_id = (await _job(gateway, job.job_id)).result.artifacts[0].artifact_id
        gateway.metadata = (("authorization", f"Bearer {KEYS['bob']}"),)
        for request in (
            pb2.GetJobRequest(job_id=job.job_id),
            pb2.WatchJobRequest(job_id=job.job_id),
            pb2.CancelJobRequest(job_id=job.job_id),
            pb2.DownloadArtifactRequest(artifact_id=artifact_id),
        ):
            method = type(request).__name__.removesuffix("Request")
            call = getattr(gateway.stub, method)(request, timeout=20, metadata=gateway.metadata)
            assert (await failure_of(call)).status == "NOT_FOUND"
        page = await gateway.stub.ListJobs(pb2.ListJobsRequest(), metadata=gateway.metadata)
        assert list(page.jobs) == []
        # The name of an order is its tenant's own, too.
        assert (await _submitted(gateway, _order("mine", seed=9))).job_id != job.job_id


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_tenants_ask_they_get_nothing_of_each_others(
    tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    async with running_gateway(tmp_path, access_file=_access_file(tmp_path)) as gateway:
        gateway.cluster.vae.artifact_id = None
        owner: dict[str, str] = {}
        for number in range(150):
            who = chance.choice([*KEYS])
            gateway.metadata = (("authorization", f"Bearer {KEYS[who]}"),)
            known = chance.choice([*owner]) if owner else "f" * 32
            match chance.choice(["submit", "get", "watch", "cancel", "download", "list", "edit"]):
                case "submit":
                    job = await _submitted(gateway, _order(chance.choice(["", "one"])))
                    assert owner.setdefault(job.job_id, who) == who
                case "list":
                    request = pb2.ListJobsRequest(page_size=chance.randint(0, 3))
                    page = await gateway.stub.ListJobs(request, metadata=gateway.metadata)
                    assert {owner[job.job_id] for job in page.jobs} <= {who}
                case "edit":
                    # Another's job's pictures are no uploads of one's own.
                    image = generation_pb2.InputImage(upload_id=f"{known}.0")
                    error = await failure_of(gateway.generate(images=[image]))
                    assert error.status == "INVALID_ARGUMENT"
                case method:
                    told = await _told(gateway, method, known)
                    assert told == "NOT_FOUND" or owner[known] == who, (number, method)


async def _told(gateway: Gateway, method: str, job_id: str) -> str:
    """The status of a call about a job, or about the artifact of its name."""
    calls: dict[str, Any] = {
        "get": lambda: gateway.stub.GetJob(
            pb2.GetJobRequest(job_id=job_id), metadata=gateway.metadata
        ),
        "cancel": lambda: gateway.stub.CancelJob(
            pb2.CancelJobRequest(job_id=job_id), metadata=gateway.metadata
        ),
        "watch": lambda: _all(
            gateway.stub.WatchJob(pb2.WatchJobRequest(job_id=job_id), metadata=gateway.metadata)
        ),
        "download": lambda: _all(
            gateway.stub.DownloadArtifact(
                pb2.DownloadArtifactRequest(artifact_id=job_id), metadata=gateway.metadata
            )
        ),
    }
    try:
        await calls[method]()
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def _all(call: Any) -> None:
    async for _ in call:
        pass


async def test_a_tenant_has_so_many_jobs_at_once_and_no_more(tmp_path: Path) -> None:
    access_file = _access_file(tmp_path, concurrent_jobs=2)
    async with running_gateway(tmp_path, access_file=access_file) as gateway:
        gateway.metadata = (("authorization", f"Bearer {KEYS['alice']}"),)
        gateway.cluster.denoiser.waits = True
        jobs = [await _submitted(gateway, _order(seed=seed)) for seed in range(2)]
        for call in (
            gateway.stub.SubmitJob(_order(seed=3), timeout=20, metadata=gateway.metadata),
            gateway.generate(),
        ):
            error = await failure_of(call)
            assert (error.status, error.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
            assert "concurrent_jobs is 2" in str(error)
        request = pb2.CancelJobRequest(job_id=jobs[0].job_id)
        await gateway.stub.CancelJob(request, metadata=gateway.metadata)
        third = await _submitted(gateway, _order(seed=3))
        for job in (jobs[1], third):
            request = pb2.CancelJobRequest(job_id=job.job_id)
            await gateway.stub.CancelJob(request, metadata=gateway.metadata)


async def test_a_streams_job_is_its_tenants_like_any_other(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        job_id = ""
        async for answer in gateway.generate(seed=7):
            job_id = answer.event.job_id or job_id
        assert (await _job(gateway, job_id)).state == SUCCEEDED
        call = gateway.generate(seed=8)
        gateway.cluster.denoiser.waits = True
        first = await call.read()
        await gateway.cluster.denoiser.stopped.wait()
        call.cancel()
        events = await _events(gateway, first.event.job_id)
        assert events[-1].WhichOneof("event") == "cancelled"
        assert await call.code() is grpc.StatusCode.CANCELLED
