import asyncio
import io
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from PIL import Image

from services.artifacts.artifact_store import ArtifactStore
from services.artifacts.directory import DirectoryPlace
from services.artifacts.room import LEAST_BYTES
from services.gateway import uploads as module
from services.gateway.access import Tenant
from services.gateway.artifact_calls import ArtifactCalls
from services.gateway.uploads import Uploads
from services.pictures.input_picture import MAX_BYTES, describe_picture
from tests.unit.gateway.kept_artifacts import artifact_calls
from triptych.domain.errors import (
    DeadlineExceeded,
    InvalidRequest,
    QuotaExceeded,
    ResourceExhausted,
)
from triptych.domain.input_image import ImageDescription


def picture(width: int = 30) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, 20)).save(stream, "PNG")
    return stream.getvalue()


async def chunked(data: bytes, size: int = 50) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


SOMEONE, ANOTHER = (
    Tenant(name=name, key_sha256=(digit * 64,))
    for name, digit in (("someone", "a"), ("another", "b"))
)


def uploads_in(
    quota_bytes: int,
    tenant_bytes: int | None = None,
    clock: Callable[[], float] = time.time,
    idle_seconds: float = 60,
) -> Uploads:
    return Uploads(artifact_calls(quota_bytes, tenant_bytes, clock), 60, idle_seconds)


async def test_an_upload_is_found_again_as_often_as_it_is_named() -> None:
    uploads = uploads_in(10_000)
    upload_id, described = await uploads.take(SOMEONE, chunked(picture()))
    assert (described.width, described.height) == (30, 20)
    for _ in range(2):
        named = ("someone", "images[0].upload_id", upload_id)
        assert await uploads.described(*named) == described
        assert await uploads.load(*named) == picture()


async def test_uploads_are_their_tenants_own() -> None:
    uploads = uploads_in(10_000)
    upload_id, _ = await uploads.take(SOMEONE, chunked(picture()))
    with pytest.raises(InvalidRequest, match=r"^images\[0\].upload_id: is '.*', which is not here"):
        await uploads.load("another", "images[0].upload_id", upload_id)


async def test_an_upload_is_forgotten_after_its_time_and_makes_room() -> None:
    clock = Clock()
    uploads = uploads_in(LEAST_BYTES, clock=clock)
    upload_id, _ = await uploads.take(SOMEONE, chunked(picture()))
    with pytest.raises(ResourceExhausted, match="used up; repeat the request later"):
        await uploads.take(SOMEONE, chunked(picture()))
    clock.now = 62
    with pytest.raises(InvalidRequest, match="not here"):
        await uploads.load("someone", "images[0].upload_id", upload_id)
    await uploads.take(SOMEONE, chunked(picture()))


async def test_uploads_that_are_still_coming_in_count_as_well() -> None:
    uploads = uploads_in(LEAST_BYTES)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield picture()[:50]
        arrived.set()
        await go_on.wait()
        yield picture()[50:]

    first = asyncio.create_task(uploads.take(SOMEONE, slow()))
    await arrived.wait()
    with pytest.raises(ResourceExhausted):
        await uploads.take(SOMEONE, chunked(picture()))
    go_on.set()
    await first


async def test_an_upload_that_breaks_off_leaves_no_room_taken() -> None:
    uploads = uploads_in(LEAST_BYTES)

    async def broken() -> AsyncIterator[bytes]:
        yield picture()[:50]
        raise ConnectionError

    for _ in range(3):
        with pytest.raises(ConnectionError):
            await uploads.take(SOMEONE, broken())
    await uploads.take(SOMEONE, chunked(picture()))


async def test_an_upload_whose_client_leaves_in_the_middle_leaves_no_room_taken() -> None:
    uploads = uploads_in(LEAST_BYTES)
    arrived = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield picture()[:50]
        arrived.set()
        await asyncio.Event().wait()

    leaving = asyncio.create_task(uploads.take(SOMEONE, stuck()))
    await arrived.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await uploads.take(SOMEONE, chunked(picture()))


async def test_uploads_that_come_in_together_never_hold_more_than_the_quota() -> None:
    uploads = uploads_in(3 * LEAST_BYTES)

    async def in_turns() -> AsyncIterator[bytes]:
        async for chunk in chunked(picture(), 10):
            yield chunk
            await asyncio.sleep(0)

    takes = [uploads.take(SOMEONE, in_turns()) for _ in range(8)]
    answers = await asyncio.gather(*takes, return_exceptions=True)
    taken = [each for each in answers if not isinstance(each, BaseException)]
    refused = [each for each in answers if isinstance(each, ResourceExhausted)]
    assert len(taken) + len(refused) == 8
    assert 0 < len(taken) <= 3
    for upload_id, _ in taken:
        assert await uploads.load("someone", "images[0].upload_id", upload_id) == picture()


async def test_the_gateway_goes_on_while_a_header_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, may_read = threading.Event(), threading.Event()

    def slow(field: str, data: bytes) -> ImageDescription:
        reading.set()
        assert may_read.wait(20)
        return describe_picture(field, data)

    monkeypatch.setattr(module, "describe_picture", slow)
    uploads = uploads_in(10_000)
    upload = asyncio.create_task(uploads.take(SOMEONE, chunked(picture())))
    await asyncio.to_thread(reading.wait, 20)
    with pytest.raises(InvalidRequest, match="not here"):
        await uploads.load("someone", "images[0].upload_id", "another")
    may_read.set()
    await upload


async def test_a_tenant_whose_uploads_are_slow_does_not_take_anothers_room() -> None:
    uploads = uploads_in(10 * LEAST_BYTES, tenant_bytes=2 * LEAST_BYTES)
    arrived, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield picture()[:50]
        arrived.release()
        await go_on.wait()
        yield picture()[50:]

    slow_ones = [asyncio.create_task(uploads.take(SOMEONE, slow())) for _ in range(2)]
    for _ in slow_ones:
        await arrived.acquire()
    with pytest.raises(QuotaExceeded, match="quota: artifact_bytes is 8192 and used up"):
        await uploads.take(SOMEONE, chunked(picture()))
    await uploads.take(ANOTHER, chunked(picture()))
    go_on.set()
    await asyncio.gather(*slow_ones)


async def test_an_upload_that_pauses_for_too_long_is_given_up_and_its_room_given_back() -> None:
    uploads = uploads_in(LEAST_BYTES, idle_seconds=0.05)

    async def stuck() -> AsyncIterator[bytes]:
        yield picture()[:50]
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match=r"no more of the upload came for 0.05 s"):
        await uploads.take(SOMEONE, stuck())
    await uploads.take(SOMEONE, chunked(picture()))


async def test_gateways_that_share_a_store_know_one_anothers_uploads(tmp_path: Path) -> None:
    first, second = (
        Uploads(ArtifactCalls(ArtifactStore(DirectoryPlace(tmp_path / "store")), None), 60, 60)
        for _ in range(2)
    )
    upload_id, described = await first.take(SOMEONE, chunked(picture()))
    named = ("someone", "images[0].upload_id", upload_id)
    assert await second.described(*named) == described
    assert await second.load(*named) == picture()


async def test_an_upload_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="data: is empty"):
        await uploads_in(LEAST_BYTES).take(SOMEONE, chunked(b""))


async def test_a_picture_that_is_too_large_is_not_read_to_its_end() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield bytes(1024 * 1024)

    with pytest.raises(InvalidRequest, match=f"data: has more than {MAX_BYTES} bytes"):
        await uploads_in(2 * MAX_BYTES).take(SOMEONE, endless())
    assert read == MAX_BYTES // 1024 // 1024 + 1


async def test_what_is_no_picture_is_not_kept() -> None:
    uploads = uploads_in(LEAST_BYTES)
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="data: is not a picture"):
            await uploads.take(SOMEONE, chunked(bytes(150)))
