import hashlib
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.gateway.access import ANYBODY, Access, AccessList
from services.observability.metrics import REQUESTS_FINISHED
from tests.unit.gateway.running_gateway import SERVICE, failure_of, running_gateway
from triptych.domain.errors import ConfigurationError, Unauthenticated
from triptych.v1 import generation_pb2
from triptych.v1 import generation_service_pb2 as pb2

ALICE, BOB = "alice's key", "bob's key"


def hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def access_file(directory: Path, **alice: Any) -> Path:
    path = directory / "access.json"
    tenants = [
        {"name": "alice", "key_sha256": [hashed(ALICE)], **alice},
        {"name": "bob", "key_sha256": [hashed("an older key"), hashed(BOB)]},
    ]
    path.write_text(json.dumps({"tenants": tenants}))
    return path


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)


def test_a_key_tells_whose_it_is(tmp_path: Path) -> None:
    access = Access(access_file(tmp_path))
    assert access.tenant_of(bearer(ALICE)).name == "alice"
    assert access.tenant_of(bearer(BOB)).name == "bob"
    assert access.tenant_of((*bearer("an older key"), ("user-agent", "x"))).name == "bob"
    assert access.tenant_of((("authorization", f"bearer {BOB}"),)).name == "bob"


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", ALICE),),
        (("authorization", f"Basic {ALICE}"),),
        bearer("somebody's key"),
        bearer(hashed(ALICE)),
        bearer(""),
        bearer(ALICE) + bearer(BOB),
    ],
)
def test_without_a_known_key_nobody_gets_in(
    metadata: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        Access(access_file(tmp_path)).tenant_of(metadata)
    assert ALICE not in str(refusal.value)


def test_without_a_list_anybody_gets_in() -> None:
    assert Access(None).tenant_of(()) is ANYBODY


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file: Invalid JSON"),
        ('{"tenants": []}', "tenants: .*at least 1"),
        ('{"tenants": [{"name": "a b", "key_sha256": ["x"]}]}', r"tenants.0.name: "),
        ('{"tenants": [{"name": "a", "key_sha256": ["secret"]}]}', r"tenants.0.key_sha256.0: "),
        ('{"tenants": [{"name": "a", "key": "secret"}]}', r"tenants.0.key_sha256: Field required"),
    ],
)
def test_a_file_that_is_no_list_is_refused_without_showing_a_key(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "access.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=message) as refusal:
        AccessList.read(path)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"name": "alice", "key_sha256": [hashed(BOB)]}, "share names"),
        ({"name": "bob", "key_sha256": [hashed(ALICE)]}, "share keys"),
    ],
)
def test_tenants_share_nothing(second: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "access.json"
    first = {"name": "alice", "key_sha256": [hashed(ALICE)]}
    path.write_text(json.dumps({"tenants": [first, second]}))
    with pytest.raises(ConfigurationError, match=message):
        AccessList.read(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="access_file: cannot read"):
        Access(tmp_path / "nowhere")


async def test_every_method_asks_for_a_key(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, access_file=access_file(tmp_path)) as gateway:
        for method in SERVICE.methods:
            request = getattr(pb2, method.input_type.name)()
            call = getattr(gateway.stub, method.name)
            sent = iter((request,)) if method.client_streaming else request
            for metadata in ((), bearer("nobody's")):
                error = await failure_of(call(sent, metadata=metadata))
                assert (method.name, error.status) == (method.name, "UNAUTHENTICATED")


async def test_strangers_are_not_told_what_there_is(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, access_file=access_file(tmp_path)) as gateway:
        stub = reflection_pb2_grpc.ServerReflectionStub(gateway.channel)
        call = stub.ServerReflectionInfo(timeout=20)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_tenants_name_goes_with_its_jobs(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, access_file=access_file(tmp_path)) as gateway:
        gateway.metadata = bearer(BOB)
        assert [answer async for answer in gateway.generate()]
    assert {each.tenant for each in gateway.cluster.encoder.requests} == {"bob"}


async def test_a_used_up_quota_refuses_with_the_time_to_come_again(tmp_path: Path) -> None:
    file = access_file(tmp_path, quota={"requests_per_minute": 1})
    async with running_gateway(tmp_path, access_file=file) as gateway:
        gateway.metadata = bearer(ALICE)
        assert [answer async for answer in gateway.generate()]
        error = await failure_of(gateway.generate())
        assert (error.status, error.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
        assert "requests_per_minute is 1" in str(error)
        assert error.retry_after_seconds is not None
        assert 50 < error.retry_after_seconds <= 60
        # The other tenant's is another.
        gateway.metadata = bearer(BOB)
        assert [answer async for answer in gateway.generate()]


async def test_a_used_up_quota_refuses_before_any_picture_is_read(tmp_path: Path) -> None:
    file = access_file(tmp_path, quota={"requests_per_minute": 1})
    async with running_gateway(tmp_path, access_file=file) as gateway:
        gateway.metadata = bearer(ALICE)
        async for _ in gateway.generate():
            pass
        broken = [generation_pb2.InputImage(data=b"no picture")]
        error = await failure_of(gateway.generate(images=broken))
        assert error.reason == "QUOTA_EXCEEDED"


async def test_a_request_that_is_refused_costs_nothing(tmp_path: Path) -> None:
    file = access_file(tmp_path, quota={"requests_per_minute": 1, "concurrent_jobs": 1})
    async with running_gateway(tmp_path, access_file=file) as gateway:
        gateway.metadata = bearer(ALICE)
        for _ in range(3):
            assert (await failure_of(gateway.generate(width=33))).status == "INVALID_ARGUMENT"
        assert [answer async for answer in gateway.generate()]


async def test_who_was_refused_for_lack_of_a_key_is_counted_and_logged_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[dict[str, str]] = []
    monkeypatch.setattr(REQUESTS_FINISHED, "add", lambda amount, **labels: counted.append(labels))
    async with running_gateway(tmp_path, access_file=access_file(tmp_path)) as gateway:
        with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
            gateway.metadata = bearer("somebody's key")
            await failure_of(gateway.generate())
            await failure_of(gateway.stub.ListModels(pb2.ListModelsRequest()))
    assert [(each["task"], each["outcome"], each["reason"]) for each in counted] == [
        ("generate", "failed", "UNAUTHENTICATED"),
        ("list_models", "failed", "UNAUTHENTICATED"),
    ]
    assert [line["event"] for line in lines] == ["refused", "refused"]
    assert [line["method"].rpartition("/")[2] for line in lines] == ["Generate", "ListModels"]
    assert all(line["peer"].startswith("unix:") for line in lines)
    assert "somebody" not in repr(lines)


async def test_what_was_accepted_and_what_was_refused_says_whose_it_is(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, access_file=access_file(tmp_path)) as gateway:
        gateway.metadata = bearer(BOB)
        with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as lines:
            assert [answer async for answer in gateway.generate()]
            await failure_of(gateway.generate(width=33))
    whose = {line["event"]: line for line in lines if line["event"] in ("accepted", "refused")}
    assert {each["tenant"] for each in whose.values()} == {"bob"}
    assert all(each["method"].endswith("/Generate") and each["peer"] for each in whose.values())
    assert "circle" not in repr(lines)


def test_a_key_that_was_taken_from_the_file_is_nobodys_at_once(tmp_path: Path) -> None:
    file = access_file(tmp_path)
    access = Access(file)
    assert access.tenant_of(bearer(ALICE)).name == "alice"
    without = {"tenants": [{"name": "bob", "key_sha256": [hashed(BOB)]}]}
    file.write_text(json.dumps(without))
    with pytest.raises(Unauthenticated):
        access.tenant_of(bearer(ALICE))
    assert access.tenant_of(bearer(BOB)).name == "bob"


def test_a_file_that_was_broken_changes_nothing_but_the_log(tmp_path: Path) -> None:
    file = access_file(tmp_path)
    access = Access(file)
    with structlog.testing.capture_logs() as lines:
        for broken in ('{"tenants": []}', "{"):
            file.write_text(broken)
            for _ in range(2):
                assert access.tenant_of(bearer(ALICE)).name == "alice"
        file.unlink()
        assert access.tenant_of(bearer(ALICE)).name == "alice"
    assert [line["event"] for line in lines] == ["access file not read again"] * 3
