"""Results that the gateway keeps, as its clients download them."""

import hashlib
import json
import threading
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.artifacts.memory import MemoryPlace
from services.artifacts.object_place import Draft
from services.artifacts.opening import open_artifact_store
from services.gateway import results
from tests.s3_server import new_prefix, shared_s3_server
from tests.unit.gateway.running_gateway import Gateway, failure_of, running_gateway
from tests.unit.pictures.drawn import drawn, encoded
from triptych.domain.errors import DeadlineExceeded
from triptych.v1 import generation_pb2, generation_service_pb2

MEDIA = b"abcdef"
KEYS = ("a key", "another key")


def _key(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


def _access_file(tmp_path: Path, **quota: Any) -> Path:
    file = tmp_path / "access.json"
    tenants = [
        {"name": name, "key_sha256": [hashlib.sha256(key.encode()).hexdigest()], "quota": quota}
        for name, key in zip(("one", "other"), KEYS, strict=True)
    ]
    file.write_text(json.dumps({"tenants": tenants}))
    return file


async def _drawn(gateway: Gateway) -> generation_pb2.Artifact:
    """What a request's result says of its artifact."""
    gateway.cluster.vae.artifact_id = uuid.uuid4().hex
    answers = [answer async for answer in gateway.generate()]
    return answers[-1].event.completed.result.artifacts[0]


def _download(gateway: Gateway, artifact_id: str, offset: int = 0, key: str | None = None) -> Any:
    request = generation_service_pb2.DownloadArtifactRequest(
        artifact_id=artifact_id, offset_bytes=offset
    )
    metadata = gateway.metadata if key is None else _key(key)
    return gateway.stub.DownloadArtifact(request, timeout=20, metadata=metadata)


async def _bytes(call: Any) -> bytes:
    return b"".join([answer.chunk.data async for answer in call])


async def _code(call: Any) -> grpc.StatusCode | None:
    """What a download fails with, if it does."""
    try:
        await _bytes(call)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


@asynccontextmanager
async def _two_tenants(tmp_path: Path, **told: Any) -> AsyncIterator[Gateway]:
    quota = told.pop("quota", {})
    async with running_gateway(
        tmp_path, access_file=_access_file(tmp_path, **quota), **told
    ) as gateway:
        gateway.metadata = _key(KEYS[0])
        yield gateway


async def test_a_result_is_downloaded_again_from_any_offset(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        artifact = await _drawn(gateway)
        for offset in range(len(MEDIA) + 1):
            answers = [
                each.chunk async for each in _download(gateway, artifact.artifact_id, offset)
            ]
            assert answers[0].artifact == artifact
            assert [each.HasField("artifact") for each in answers[1:]] == [False] * len(answers[1:])
            assert answers[0].offset_bytes == offset
            assert b"".join(each.data for each in answers) == MEDIA[offset:]
        error = await failure_of(_download(gateway, artifact.artifact_id, len(MEDIA) + 1))
    assert (error.status, error.reason) == ("OUT_OF_RANGE", "OUT_OF_RANGE")


async def test_a_result_is_its_tenants_alone_and_so_is_an_upload(tmp_path: Path) -> None:
    async with _two_tenants(tmp_path) as gateway:
        artifact = await _drawn(gateway)
        assert await _bytes(_download(gateway, artifact.artifact_id)) == MEDIA
        uploaded = await gateway.stub.UploadImage(
            iter([generation_service_pb2.UploadImageRequest(data=encoded(drawn()))]),
            metadata=gateway.metadata,
        )
        answers = [
            await failure_of(_download(gateway, artifact_id, key=KEYS[1]))
            for artifact_id in (artifact.artifact_id, "never-there", uploaded.upload_id)
        ]
        own = await failure_of(_download(gateway, uploaded.upload_id))
    # Nobody can tell another tenant's artifact from none.
    for error in (*answers, own):
        assert (error.status, error.reason) == ("NOT_FOUND", "ARTIFACT_NOT_FOUND")
        assert str(error).endswith(" is not here (any more)")


async def test_a_result_that_has_expired_is_not_found(tmp_path: Path) -> None:
    async with running_gateway(
        tmp_path, artifact_ttl_seconds=0.5, artifact_sweep_seconds=0.01
    ) as gateway:
        artifact = await _drawn(gateway)
        while (code := await _code(_download(gateway, artifact.artifact_id))) is None:
            pass
    assert code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("place", ["file", "s3"])
async def test_another_gateway_with_the_same_store_knows_results_and_uploads(
    tmp_path: Path, place: str
) -> None:
    server = shared_s3_server() if place == "s3" else None
    url = f"file://{tmp_path}/store" if server is None else server.url(new_prefix())
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with (
        running_gateway(first, artifacts=url) as one,
        running_gateway(second, artifacts=url) as other,
    ):
        artifact = await _drawn(one)
        assert await _bytes(_download(other, artifact.artifact_id)) == MEDIA
    async with running_gateway(first, artifacts=url) as restarted:
        assert await _bytes(_download(restarted, artifact.artifact_id)) == MEDIA


async def test_a_result_that_finds_no_room_is_sent_and_says_that_it_is_not_kept(
    tmp_path: Path,
) -> None:
    async with _two_tenants(tmp_path, quota={"artifact_bytes": 4096}) as gateway:
        artifact = await _drawn(gateway)
        assert artifact.size_bytes == len(MEDIA)
        assert not artifact.HasField("expire_time")
        error = await failure_of(_download(gateway, artifact.artifact_id))
        assert error.status == "NOT_FOUND"
        # What results may not take is left for pictures that requests need.
        picture = generation_service_pb2.UploadImageRequest(data=encoded(drawn()))
        assert await gateway.stub.UploadImage(iter([picture]), metadata=gateway.metadata)
        error = await failure_of(
            gateway.stub.UploadImage(iter([picture]), metadata=gateway.metadata)
        )
    assert (error.status, error.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    assert str(error).startswith("quota: artifact_bytes is 4096 and used up")
    assert error.retry_after_seconds


async def test_one_tenant_cannot_take_the_room_of_all(tmp_path: Path) -> None:
    async with _two_tenants(tmp_path, artifacts="memory:?quota_bytes=8192") as gateway:
        picture = generation_service_pb2.UploadImageRequest(data=encoded(drawn()))
        assert await gateway.stub.UploadImage(iter([picture]), metadata=_key(KEYS[0]))
        error = await failure_of(gateway.stub.UploadImage(iter([picture]), metadata=_key(KEYS[0])))
        assert error.reason == "QUOTA_EXCEEDED"
        assert await gateway.stub.UploadImage(iter([picture]), metadata=_key(KEYS[1]))


async def test_a_job_that_fails_keeps_nothing(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store"
    async with running_gateway(tmp_path, artifacts=url) as gateway:
        gateway.cluster.vae.fails = DeadlineExceeded("it took too long")
        await failure_of(gateway.generate())
    assert [*open_artifact_store(url).list("default")] == []
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


async def test_a_store_that_does_not_answer_costs_a_request_its_artifact_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(results, "_KEEP_SECONDS", 0.05)
    draft = MemoryPlace.draft

    def slow(place: MemoryPlace) -> Draft:
        go_on.wait(60)
        return draft(place)

    monkeypatch.setattr(MemoryPlace, "draft", slow)
    async with running_gateway(tmp_path) as gateway:
        try:
            artifact = await _drawn(gateway)
        finally:
            go_on.set()
    assert artifact.size_bytes == len(MEDIA)
    assert not artifact.HasField("expire_time")
