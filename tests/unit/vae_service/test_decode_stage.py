import io
from collections.abc import Iterator, Mapping
from contextlib import closing

import pytest
import torch
import xxhash
from PIL import Image
from pydantic import SecretStr

from services.domain.errors import InvalidRequest, ModelNotFound, TensorNotFound, TriptychError
from services.domain.generation import GenerationParameters
from services.domain.stages import DecodeRequest
from services.domain.tensor_ref import Seal
from services.model_api.stage_model import StageModel
from services.model_api.stages import Tensors
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.unit.model_api.fake_model import LOADED, parameters
from vae_service.stage import VaeStage

TENANT = "someone"
REQUEST = "1" * 32


class GreyVae:
    """Paints the whole picture in the latents' grey."""

    components: Mapping[str, torch.nn.Module] = {}

    def __init__(self, scale: int = 1) -> None:
        self._scale = scale

    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        grey = int(latents["latents"].item())
        size = (parameters.width * self._scale, parameters.height * self._scale)
        return [Image.new("RGB", size, (grey, grey, grey))]


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


def stage(store: TensorStore, vae: GreyVae) -> VaeStage:
    return VaeStage(StageModel(LOADED, vae), store)


def asked(store: TensorStore, **change: object) -> DecodeRequest:
    latents = store.put({"latents": torch.tensor([77.0])}, tenant=TENANT, request_id=REQUEST)
    return DecodeRequest(REQUEST, TENANT, parameters(**change), latents)


def test_the_artifact_describes_the_bytes_that_come_with_it(store: TensorStore) -> None:
    media = stage(store, GreyVae()).decode(asked(store))
    picture = Image.open(io.BytesIO(media.data))
    assert picture.size == (media.artifact.width, media.artifact.height) == (64, 32)
    assert picture.getpixel((63, 31)) == (77, 77, 77)
    assert media.artifact.size_bytes == len(media.data)
    assert media.artifact.checksum_xxh3 == xxhash.xxh3_64_intdigest(media.data)
    assert media.artifact.num_frames == 1
    assert media.timing.run_seconds > 0
    assert media.timing.queue_seconds == 0


def test_decoding_again_gives_the_same_artifact(store: TensorStore) -> None:
    request = asked(store)
    first, again = (stage(store, GreyVae()).decode(request) for _ in range(2))
    assert (first.artifact, first.data) == (again.artifact, again.data)


def test_a_picture_of_another_size_is_an_error(store: TensorStore) -> None:
    with pytest.raises(
        TriptychError, match=r"drew 1 pictures of \[\(128, 64\)\] pixels instead of 1 of 64 x 32"
    ):
        stage(store, GreyVae(scale=2)).decode(asked(store))


def test_latents_that_are_gone_are_not_found(store: TensorStore) -> None:
    request = asked(store)
    store.release(request.latents)
    with pytest.raises(TensorNotFound):
        stage(store, GreyVae()).decode(request)


def test_requests_the_model_cannot_do_are_refused(store: TensorStore) -> None:
    with pytest.raises(ModelNotFound):
        stage(store, GreyVae()).decode(asked(store, model="another"))
    with pytest.raises(InvalidRequest, match="width: is 65"):
        stage(store, GreyVae()).decode(asked(store, width=65))
