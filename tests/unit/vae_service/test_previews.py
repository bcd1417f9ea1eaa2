import asyncio
import io
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing

import pytest
import torch
from PIL import Image
from pydantic import SecretStr

from services.domain.stages import Decoded, DecodeRequest, DrawPreviewRequest
from services.domain.tensor_ref import Seal
from services.loaded_models.stage_model import StageModel
from services.model_ports.stages import Tensors
from services.rpc.store_calls import StoreCalls
from services.rpc.worker import StageWorker
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.runtime import hold_threads
from tests.unit.model_ports.fake_model import LOADED, parameters
from triptych.domain.deadline import Deadline
from triptych.domain.errors import (
    DeadlineExceeded,
    ModelNotFound,
    StageUnavailable,
    TensorNotFound,
    TriptychError,
)
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Stage
from vae_service.preview_stage import PreviewStage
from vae_service.replica import VaeReplica
from vae_service.stage import VaeStage

TENANT = "someone"
REQUEST = "1" * 32
# From when a module is read to when its tests run may be most of an hour.
LATER = Deadline.after(24 * 3600)


class ShrinkingVae:
    """Its latents are the colours of every eighth pixel."""

    components: Mapping[str, torch.nn.Module] = {}

    def __init__(self) -> None:
        self.decoding = threading.Event()
        self.may_decode = threading.Event()
        self.fits = 0

    def reconstruct(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.fits += 1
        return pictures[:, :3, ::8, ::8], pictures[:, :3]

    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        self.decoding.set()
        assert self.may_decode.wait(30)
        return [Image.new("RGB", (parameters.width, parameters.height))]


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


@asynccontextmanager
async def serving(store: TensorStore, vae: ShrinkingVae) -> AsyncIterator[VaeReplica]:
    model = StageModel(LOADED, vae)
    worker = StageWorker(Stage.VAE, 8, hold_threads, command_seconds=600)
    replica = VaeReplica(StoreCalls(store), worker)
    replica.hold(VaeStage(model, store), PreviewStage(model, store), (LOADED,))
    try:
        async with asyncio.timeout(30):
            yield replica
    finally:
        vae.may_decode.set()
        await replica.close()


def asked(
    store: TensorStore, latents: torch.Tensor | None = None, **change: object
) -> DrawPreviewRequest:
    tensors = {"latents": torch.zeros(1, 3, 4, 8) if latents is None else latents}
    ref = store.put(tensors, tenant=TENANT, request_id=REQUEST)
    return DrawPreviewRequest(REQUEST, TENANT, parameters(**change), ref)


async def test_a_small_picture_is_drawn_and_its_latents_are_released(store: TensorStore) -> None:
    async with serving(store, ShrinkingVae()) as replica:
        drawn = await replica.draw_preview(asked(store), LATER)
    picture = Image.open(io.BytesIO(drawn.data))
    assert picture.format == "PNG"
    assert picture.size == (drawn.width, drawn.height) == (16, 8)
    assert store.stats().stored_count == 0


async def test_the_map_is_fitted_once_for_all(store: TensorStore) -> None:
    vae = ShrinkingVae()
    async with serving(store, vae) as replica:
        drawn = await asyncio.gather(*(replica.draw_preview(asked(store), LATER) for _ in range(3)))
        drawn.append(await replica.draw_preview(asked(store), LATER))
    assert vae.fits == 1
    assert len({each.data for each in drawn}) == 1


async def test_latents_whose_decode_has_lost_its_caller_can_be_decoded_again(
    store: TensorStore,
) -> None:
    vae = ShrinkingVae()
    async with serving(store, vae) as replica:
        asking = asked(store)
        request = DecodeRequest(REQUEST, TENANT, asking.parameters, asking.latents)
        task = asyncio.ensure_future(anext(replica.decode(request, LATER)))
        await asyncio.to_thread(vae.decoding.wait, 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        vae.may_decode.set()
        *_, last = [event async for event in replica.decode(request, LATER)]
    assert isinstance(last, Decoded)
    assert store.stats().stored_count == 1


async def test_nothing_is_fitted_for_requests_without_previews(store: TensorStore) -> None:
    vae = ShrinkingVae()
    vae.may_decode.set()
    async with serving(store, vae) as replica:
        latents = asked(store).latents
        request = DecodeRequest(REQUEST, TENANT, parameters(), latents)
        assert [each async for each in replica.decode(request, LATER)]
    assert vae.fits == 0


async def test_a_preview_does_not_wait_for_a_decode_that_takes_long(store: TensorStore) -> None:
    vae = ShrinkingVae()
    async with serving(store, vae) as replica:
        await replica.draw_preview(asked(store), LATER)
        request = DecodeRequest(REQUEST, TENANT, parameters(), asked(store).latents)

        async def decode() -> None:
            async for _ in replica.decode(request, LATER):
                pass

        decoding = asyncio.create_task(decode())
        assert await asyncio.to_thread(vae.decoding.wait, 30)
        assert await replica.draw_preview(asked(store), LATER)
        assert not decoding.done()
        vae.may_decode.set()
        await decoding


async def test_a_fit_that_was_given_up_begins_again_for_the_next_request(
    store: TensorStore,
) -> None:
    vae = ShrinkingVae()
    async with serving(store, vae) as replica:
        with pytest.raises(DeadlineExceeded):
            await replica.draw_preview(asked(store), Deadline.after(0))
        assert vae.fits == 0
        assert await replica.draw_preview(asked(store), LATER)
    assert vae.fits == 1


async def test_a_caller_that_leaves_does_not_take_the_fit_along(store: TensorStore) -> None:
    vae = ShrinkingVae()
    async with serving(store, vae) as replica:
        leaving = asyncio.create_task(replica.draw_preview(asked(store), LATER))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await replica.draw_preview(asked(store), LATER)
    assert vae.fits == 1


async def test_what_cannot_be_drawn_is_refused(store: TensorStore) -> None:
    async with serving(store, ShrinkingVae()) as replica:
        gone = asked(store)
        store.release(gone.latents)
        with pytest.raises(TensorNotFound):
            await replica.draw_preview(gone, LATER)
        with pytest.raises(ModelNotFound):
            await replica.draw_preview(asked(store, model="another"), LATER)
        with pytest.raises(TriptychError, match="this VAE's have 3 channels"):
            await replica.draw_preview(asked(store, torch.zeros(1, 5, 4, 8)), LATER)
        replica.drain()
        with pytest.raises(StageUnavailable):
            await replica.draw_preview(asked(store), LATER)
