"""Attempts at stages that run on a thread, in this process and over the wire."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import SecretStr

from encoder_service.replica import EncoderReplica
from encoder_service.servicer import EncoderServicer
from services.domain.stages import (
    DecodeRequest,
    DrawPreviewRequest,
    Encoded,
    EncodedImage,
    EncodeImageRequest,
    Encoder,
    EncodeRequest,
    PreviewPicture,
    Vae,
)
from services.domain.tensor_ref import Seal, TensorRef
from services.rpc.stage_clients import RemoteEncoder, RemoteVae
from services.rpc.store_calls import StoreCalls
from services.rpc.worker import StageWorker
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.runtime import hold_threads
from tests.unit.domain.examples import ARTIFACT, PARAMETERS, REQUEST_ID, loaded, timing
from tests.unit.rpc.panel import panel_of
from triptych.domain.deadline import Deadline
from triptych.domain.errors import TriptychError
from triptych.domain.model import Stage
from triptych.v1 import encoder_service_pb2_grpc, vae_service_pb2_grpc
from vae_service.replica import VaeReplica
from vae_service.servicer import VaeServicer
from vae_service.stage import DecodedMedia

TENANT = "default"
SCOPE = {"tenant": TENANT, "request_id": REQUEST_ID}


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


class Numerics:
    """Stores a number for each call; calls of the first attempt take until a test lets them end."""

    fitted = True

    def __init__(self, store: TensorStore) -> None:
        self._store = store
        self.began = threading.Event()
        self.may_end = threading.Event()

    def encode(self, request: EncodeRequest, deadline: Deadline) -> Encoded:
        return Encoded(self._stored(request.attempt), timing(Stage.ENCODER))

    def encode_image(self, request: EncodeImageRequest, deadline: Deadline) -> EncodedImage:
        return EncodedImage(self._stored(request.attempt), timing(Stage.VAE))

    def decode(self, request: DecodeRequest) -> DecodedMedia:
        self._wait(request.attempt)
        with self._store.get(request.latents, **SCOPE):
            return DecodedMedia(ARTIFACT, b"a picture", timing(Stage.VAE))

    def draw(self, request: DrawPreviewRequest) -> PreviewPicture:
        self._wait(request.attempt)
        return PreviewPicture(b"a small picture", 8, 8)

    def _stored(self, attempt: int) -> TensorRef:
        self._wait(attempt)
        return self._store.put({"attempt": torch.tensor([attempt])}, **SCOPE)

    def _wait(self, attempt: int) -> None:
        if attempt == 1:
            self.began.set()
            assert self.may_end.wait(30)


class Stages:
    """An encoder and a VAE.

    Attributes:
        latents: of the request, which no stage here has stored.
    """

    def __init__(self, store: TensorStore, encoder: Encoder, vae: Vae) -> None:
        self.encoder = encoder
        self.vae = vae
        self.latents = store.put({"latents": torch.ones(3)}, **SCOPE)

    async def encode(self, attempt: int) -> object:
        request = EncodeRequest(REQUEST_ID, TENANT, PARAMETERS, attempt=attempt)
        return await self.encoder.encode(request, Deadline.after(30))

    async def encode_image(self, attempt: int) -> object:
        request = EncodeImageRequest(REQUEST_ID, TENANT, PARAMETERS, 0, b"picture", attempt)
        return await self.vae.encode_image(request, Deadline.after(30))

    async def decode(self, attempt: int) -> object:
        request = DecodeRequest(REQUEST_ID, TENANT, PARAMETERS, self.latents, attempt)
        return [event async for event in self.vae.decode(request, Deadline.after(30))]

    async def draw_preview(self, attempt: int) -> object:
        request = DrawPreviewRequest(REQUEST_ID, TENANT, PARAMETERS, self.latents, attempt)
        return await self.vae.draw_preview(request, Deadline.after(30))


@asynccontextmanager
async def in_process(folder: Path, store: TensorStore, numerics: Any) -> AsyncIterator[Stages]:
    """As a fused cluster's gateway has them."""
    calls = StoreCalls(store)
    encoder, vae = _replicas(calls, numerics)
    try:
        async with asyncio.timeout(40):
            yield Stages(store, encoder, vae)
    finally:
        numerics.may_end.set()
        await asyncio.gather(encoder.close(), vae.close())
        calls.close()


@asynccontextmanager
async def over_the_wire(folder: Path, store: TensorStore, numerics: Any) -> AsyncIterator[Stages]:
    """Behind real servers."""
    calls = StoreCalls(store)
    encoder, vae = _replicas(calls, numerics)
    for name in ("encoder", "vae"):
        (folder / name).mkdir()
    add_encoder = encoder_service_pb2_grpc.add_EncoderServiceServicer_to_server
    add_vae = vae_service_pb2_grpc.add_VaeServiceServicer_to_server
    try:
        async with (
            panel_of(
                folder / "encoder", encoder, add_encoder, EncoderServicer, RemoteEncoder
            ) as one,
            panel_of(folder / "vae", vae, add_vae, VaeServicer, RemoteVae) as other,
        ):
            yield Stages(store, one.remote, other.remote)
            numerics.may_end.set()
    finally:
        numerics.may_end.set()
        calls.close()


def _replicas(calls: StoreCalls, numerics: Any) -> tuple[EncoderReplica, VaeReplica]:
    encoder, vae = (
        kind(calls, StageWorker(stage, 2, hold_threads, command_seconds=600))
        for kind, stage in ((EncoderReplica, Stage.ENCODER), (VaeReplica, Stage.VAE))
    )
    encoder.hold(numerics, (loaded(),))
    vae.hold(numerics, numerics, (loaded(),))
    return encoder, vae


Task = Callable[[Stages, int], Awaitable[object]]
all_tasks = pytest.mark.parametrize(
    "task",
    [Stages.encode, Stages.encode_image, Stages.decode, Stages.draw_preview],
    ids=lambda task: task.__name__,
)


def attempt_in(store: TensorStore, ref: TensorRef) -> int:
    """Which attempt stored something."""
    with store.get(ref, **SCOPE) as tensors:
        return int(tensors["attempt"])


def stored_by(made: object) -> list[TensorRef]:
    """What a call has stored."""
    match made:
        case Encoded():
            return [made.conditioning]
        case EncodedImage():
            return [made.latents]
        case _:
            return []


async def superseded(call: Awaitable[object]) -> None:
    with pytest.raises(TriptychError, match="attempt: is 1; a later attempt") as caught:
        await call
    assert (caught.value.status, caught.value.reason) == ("ABORTED", "SUPERSEDED")


@all_tasks
@pytest.mark.parametrize("serving", [in_process, over_the_wire], ids=lambda each: each.__name__)
async def test_a_later_attempt_ends_an_earlier_ones_call_and_an_earlier_one_is_refused(
    tmp_path: Path, store: TensorStore, task: Task, serving: Any
) -> None:
    numerics = Numerics(store)
    async with serving(tmp_path, store, numerics) as stages:
        earlier = asyncio.ensure_future(task(stages, 1))
        await asyncio.to_thread(numerics.began.wait, 30)
        later = asyncio.ensure_future(task(stages, 2))
        # While its work, which nothing can interrupt, still runs.
        await superseded(earlier)
        await superseded(task(stages, 1))
        numerics.may_end.set()
        stored = stored_by(await later)
        await superseded(task(stages, 1))
        # What the earlier one stored all the same is gone; what no call here stored is there.
        assert [attempt_in(store, ref) for ref in stored] == [2] * len(stored)
        assert store.stats().stored_count == 1 + len(stored)
        with store.get(stages.latents, **SCOPE) as tensors:
            assert tensors["latents"].tolist() == [1, 1, 1]


@all_tasks
async def test_an_attempt_whose_caller_left_may_call_again_and_finds_all_that_it_reads(
    tmp_path: Path, store: TensorStore, task: Task
) -> None:
    numerics = Numerics(store)
    async with in_process(tmp_path, store, numerics) as stages:
        left = asyncio.ensure_future(task(stages, 1))
        await asyncio.to_thread(numerics.began.wait, 30)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        again = asyncio.ensure_future(task(stages, 1))
        await asyncio.sleep(0)
        numerics.may_end.set()
        stored = stored_by(await again)
        assert store.stats().stored_count == 1 + len(stored)


async def test_calls_without_an_attempt_run_beside_those_that_have_one(
    tmp_path: Path, store: TensorStore
) -> None:
    numerics = Numerics(store)
    async with over_the_wire(tmp_path, store, numerics) as stages:
        first = asyncio.ensure_future(stages.encode(1))
        await asyncio.to_thread(numerics.began.wait, 30)
        beside = asyncio.ensure_future(stages.encode(0))
        numerics.may_end.set()
        made = await asyncio.gather(first, beside)
        assert [attempt_in(store, *stored_by(each)) for each in made] == [1, 0]
