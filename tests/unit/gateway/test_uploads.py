import asyncio
import io
import threading
from collections.abc import AsyncIterator

import pytest
from PIL import Image

from services.gateway import uploads as module
from services.gateway.uploads import Uploads
from services.pictures.input_picture import MAX_BYTES, describe_picture
from triptych.domain.errors import InvalidRequest, ResourceExhausted
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


async def test_an_upload_is_found_again_as_often_as_it_is_named() -> None:
    uploads = Uploads(10_000, 60)
    upload_id, described = await uploads.take("someone", chunked(picture()))
    assert (described.width, described.height) == (30, 20)
    for _ in range(2):
        found = uploads.find("someone", "images[0].upload_id", upload_id)
        assert (found.data, found.described) == (picture(), described)


async def test_uploads_are_their_tenants_own() -> None:
    uploads = Uploads(10_000, 60)
    upload_id, _ = await uploads.take("someone", chunked(picture()))
    with pytest.raises(InvalidRequest, match=r"^images\[0\].upload_id: is '.*', which is not here"):
        uploads.find("another", "images[0].upload_id", upload_id)


async def test_an_upload_is_forgotten_after_its_time_and_makes_room() -> None:
    clock = Clock()
    uploads = Uploads(len(picture()), 60, clock)
    upload_id, _ = await uploads.take("someone", chunked(picture()))
    with pytest.raises(ResourceExhausted, match="repeat the upload later"):
        await uploads.take("someone", chunked(picture()))
    clock.now = 61
    with pytest.raises(InvalidRequest, match="not here"):
        uploads.find("someone", "images[0].upload_id", upload_id)
    await uploads.take("someone", chunked(picture()))


async def test_uploads_that_are_still_coming_in_count_as_well() -> None:
    uploads = Uploads(len(picture()) + 20, 60)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield picture()[:50]
        arrived.set()
        await go_on.wait()
        yield picture()[50:]

    first = asyncio.create_task(uploads.take("someone", slow()))
    await arrived.wait()
    with pytest.raises(ResourceExhausted):
        await uploads.take("someone", chunked(picture()))
    go_on.set()
    await first


async def test_an_upload_that_breaks_off_leaves_no_room_taken() -> None:
    uploads = Uploads(len(picture()), 60)

    async def broken() -> AsyncIterator[bytes]:
        yield picture()[:50]
        raise ConnectionError

    for _ in range(3):
        with pytest.raises(ConnectionError):
            await uploads.take("someone", broken())
    await uploads.take("someone", chunked(picture()))


async def test_an_upload_whose_client_leaves_in_the_middle_leaves_no_room_taken() -> None:
    uploads = Uploads(len(picture()), 60)
    arrived = asyncio.Event()

    async def stuck() -> AsyncIterator[bytes]:
        yield picture()[:50]
        arrived.set()
        await asyncio.Event().wait()

    leaving = asyncio.create_task(uploads.take("someone", stuck()))
    await arrived.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await uploads.take("someone", chunked(picture()))


async def test_uploads_that_come_in_together_never_hold_more_than_the_quota() -> None:
    uploads = Uploads(3 * len(picture()), 60)

    async def in_turns() -> AsyncIterator[bytes]:
        async for chunk in chunked(picture(), 10):
            yield chunk
            await asyncio.sleep(0)

    takes = [uploads.take("someone", in_turns()) for _ in range(8)]
    answers = await asyncio.gather(*takes, return_exceptions=True)
    taken = [each for each in answers if not isinstance(each, BaseException)]
    refused = [each for each in answers if isinstance(each, ResourceExhausted)]
    assert len(taken) + len(refused) == 8
    assert 0 < len(taken) <= 3
    for upload_id, _ in taken:
        assert uploads.find("someone", "images[0].upload_id", upload_id).data == picture()


async def test_the_gateway_goes_on_while_a_header_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, may_read = threading.Event(), threading.Event()

    def slow(field: str, data: bytes) -> ImageDescription:
        reading.set()
        assert may_read.wait(20)
        return describe_picture(field, data)

    monkeypatch.setattr(module, "describe_picture", slow)
    uploads = Uploads(10_000, 60)
    upload = asyncio.create_task(uploads.take("someone", chunked(picture())))
    await asyncio.to_thread(reading.wait, 20)
    with pytest.raises(InvalidRequest, match="not here"):
        uploads.find("someone", "images[0].upload_id", "another")
    may_read.set()
    await upload


async def test_an_upload_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="data: is empty"):
        await Uploads(1000, 60).take("someone", chunked(b""))


async def test_a_picture_that_is_too_large_is_not_read_to_its_end() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield bytes(1024 * 1024)

    with pytest.raises(InvalidRequest, match=f"data: has more than {MAX_BYTES} bytes"):
        await Uploads(2 * MAX_BYTES, 60).take("someone", endless())
    assert read == MAX_BYTES // 1024 // 1024 + 1


async def test_what_is_no_picture_is_not_kept() -> None:
    uploads = Uploads(200, 60)
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="data: is not a picture"):
            await uploads.take("someone", chunked(bytes(150)))
