import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace

import pytest
import torch
from PIL import Image
from pydantic import SecretStr

from services.domain.stages import EncodeImageRequest
from services.domain.tensor_ref import Seal
from services.loaded_models.conditioning_encoder import ConditioningEncoder
from services.loaded_models.stage_model import StageModel
from services.model_ports.encoding import Encoding, image_encoding
from services.model_ports.stages import Tensors, VaeModel
from services.rpc.store_calls import StoreCalls
from services.rpc.worker import StageWorker
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.runtime import hold_threads
from tests.unit.model_ports.fake_model import EDITING, described, parameters
from tests.unit.pictures.drawn import drawn, encoded, turned
from triptych.domain.deadline import Deadline
from triptych.domain.errors import InvalidRequest, ModelNotFound, Unsupported
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Stage
from triptych.domain.stage_timing import StageTask
from vae_service.preview_stage import PreviewStage
from vae_service.replica import VaeReplica
from vae_service.stage import VaeStage

TENANT = "someone"
REQUEST = "1" * 32
PICTURES = (encoded(drawn()), encoded(drawn("L"), "JPEG", exif=turned(6)))


class DrawingVae:
    """Draws, and cannot look at anything."""

    components: Mapping[str, torch.nn.Module] = {}

    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        raise AssertionError("nobody decodes here")


class MeasuringVae(DrawingVae):
    """Its latents are a picture's index and size."""

    def __init__(self) -> None:
        self.seen: list[Image.Image] = []

    def image_encoding(
        self, parameters: GenerationParameters, index: int, image: Image.Image
    ) -> Encoding:
        return image_encoding(index, lambda: self._encode(index, image))

    def _encode(self, index: int, image: Image.Image) -> torch.Tensor:
        self.seen.append(image)
        return torch.tensor([index, *image.size])


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


def stage(store: TensorStore, vae: VaeModel) -> VaeStage:
    return VaeStage(StageModel(EDITING, vae), store)


def asked(index: int, image: bytes | None = None, **change: object) -> EncodeImageRequest:
    wanted = parameters(images=described(*PICTURES), **change)
    data = PICTURES[index] if image is None else image
    return EncodeImageRequest(REQUEST, TENANT, wanted, index, data)


async def test_latents_live_until_their_requests_deadline(store: TensorStore) -> None:
    model = StageModel(EDITING, MeasuringVae())
    worker = StageWorker(Stage.VAE, 1, hold_threads, command_seconds=600)
    previews, encodes = PreviewStage(model, store), VaeStage(model, store)
    replica = VaeReplica(StoreCalls(store), worker)
    replica.hold(encodes, previews, (EDITING,))
    made = await replica.encode_image(asked(0), Deadline.after(1000))
    assert made.latents.expire_time > time.time() + 900
    await replica.close()


@pytest.mark.parametrize(("index", "mode", "size"), [(0, "RGB", [40, 24]), (1, "L", [24, 40])])
def test_the_latents_of_a_picture_are_stored_for_its_request(
    store: TensorStore, index: int, mode: str, size: list[int]
) -> None:
    vae = MeasuringVae()
    made = stage(store, vae).encode_image(asked(index))
    with store.get(made.latents, tenant=TENANT, request_id=REQUEST) as tensors:
        assert {name: each.tolist() for name, each in tensors.items()} == {
            "latents": [index, *size]
        }
    assert [each.mode for each in vae.seen] == [mode]


def test_latents_that_are_remembered_are_stored_for_the_next_request_too(
    store: TensorStore,
) -> None:
    vae = MeasuringVae()
    remembers = ConditioningEncoder(store.open_cache(1 << 20, 60))
    encodes = VaeStage(StageModel(EDITING, vae), store, encoder=remembers)
    reused = []
    for digit in "12":
        request = replace(asked(0), request_id=digit * 32)
        made = encodes.encode_image(request)
        with store.get(made.latents, tenant=TENANT, request_id=request.request_id) as tensors:
            assert tensors["latents"].tolist() == [0, 40, 24]
        reused += [each.reused for each in made.conditioning_reuse]
    assert reused == [0, 1]
    assert len(vae.seen) == 1


def test_the_time_is_told_for_pictures(store: TensorStore) -> None:
    timing = stage(store, MeasuringVae()).encode_image(asked(0)).timing
    assert (timing.stage, timing.task) == (Stage.VAE, StageTask.ENCODE_IMAGES)
    assert timing.run_seconds > 0
    assert timing.transfer_seconds > 0
    assert timing.queue_seconds == 0


def test_a_picture_that_the_request_does_not_have_is_refused(store: TensorStore) -> None:
    with pytest.raises(Unsupported, match=r"^image_index: is 2; images are 2"):
        stage(store, MeasuringVae()).encode_image(asked(2, PICTURES[0]))


def test_a_model_that_cannot_look_at_pictures_says_so(store: TensorStore) -> None:
    with pytest.raises(Unsupported, match=r"^images: the VAE of fake encodes none"):
        stage(store, DrawingVae()).encode_image(asked(0))


@pytest.mark.parametrize("image", [PICTURES[1], b"", PICTURES[0] + b"more"], ids=len)
def test_only_the_picture_that_was_described_is_encoded(store: TensorStore, image: bytes) -> None:
    vae = MeasuringVae()
    with pytest.raises(InvalidRequest, match=r"^images\[0\]: is not the picture that was descr"):
        stage(store, vae).encode_image(asked(0, image))
    assert vae.seen == []
    assert store.stats().stored_count == 0


def test_requests_the_model_cannot_do_are_refused(store: TensorStore) -> None:
    with pytest.raises(ModelNotFound):
        stage(store, MeasuringVae()).encode_image(asked(0, model="another"))
    with pytest.raises(InvalidRequest, match="width: is 65"):
        stage(store, MeasuringVae()).encode_image(asked(0, width=65))
