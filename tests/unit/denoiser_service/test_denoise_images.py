from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from denoiser_service.rank.stage import DenoiseStage
from services.domain.stages import DenoiseRequest
from services.domain.tensor_ref import Seal, TensorRef
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.unit.denoiser_service.fakes import ONE, TENANT, TWO, CountingDenoiser, loaded
from tests.unit.model_ports.fake_model import EDITING, parameters
from triptych.domain.errors import InvalidRequest, NotFound, TensorNotFound, TensorRefused
from triptych.domain.input_image import ImageDescription

IMAGE = ImageDescription(width=64, height=48, size_bytes=1, checksum_xxh3=0)


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


@pytest.fixture
def denoiser() -> CountingDenoiser:
    return CountingDenoiser()


@pytest.fixture
def stage(store: TensorStore, denoiser: CountingDenoiser) -> DenoiseStage:
    return DenoiseStage(loaded(denoiser, EDITING), store)


def latents(store: TensorStore, *values: float, request_id: str = ONE) -> TensorRef:
    return store.put({"latents": torch.tensor(values)}, tenant=TENANT, request_id=request_id)


def asked(store: TensorStore, *image_latents: TensorRef, images: int = 2) -> DenoiseRequest:
    tensors = {"increment": torch.full((1, 2), 1.0)}
    conditioning = store.put(tensors, tenant=TENANT, request_id=ONE)
    wanted = parameters(images=(IMAGE,) * images)
    return DenoiseRequest(ONE, TENANT, wanted, conditioning, image_latents)


def test_the_latents_of_pictures_come_with_the_conditioning_in_the_requests_order(
    stage: DenoiseStage, store: TensorStore, denoiser: CountingDenoiser
) -> None:
    stage.prepare(asked(store, latents(store, 3, 4), latents(store, 5)))
    assert denoiser.conditioned == [
        {"increment": [[1, 1]], "image_latents_0": [3, 4], "image_latents_1": [5]}
    ]


def test_all_that_was_read_may_be_released_once_the_request_is_prepared(
    stage: DenoiseStage, store: TensorStore
) -> None:
    request = asked(store, latents(store, 3), latents(store, 5))
    stage.prepare(request)
    store.release_request(TENANT, ONE)
    assert store.stats().stored_count == 0
    assert stage.step(ONE).step == 1


@pytest.mark.parametrize("came", [0, 1, 3])
def test_other_than_one_per_picture_is_refused_and_leaves_nothing_behind(
    stage: DenoiseStage, store: TensorStore, denoiser: CountingDenoiser, came: int
) -> None:
    refs = [latents(store, number) for number in range(came)]
    with pytest.raises(InvalidRequest, match=f"^image_latents: are {came}; the request has 2 ima"):
        stage.prepare(asked(store, *refs))
    assert denoiser.conditioned == []
    with pytest.raises(NotFound):
        stage.abort(ONE)


def test_tensors_that_are_no_latents_are_refused(stage: DenoiseStage, store: TensorStore) -> None:
    other = store.put({"prompt_embeds": torch.zeros(2)}, tenant=TENANT, request_id=ONE)
    with pytest.raises(InvalidRequest, match=r"image_latents\[1\]: hold prompt_embeds"):
        stage.prepare(asked(store, latents(store, 3), other))


def test_latents_of_another_request_are_refused(stage: DenoiseStage, store: TensorStore) -> None:
    foreign = latents(store, 5, request_id=TWO)
    with pytest.raises(TensorRefused):
        stage.prepare(asked(store, latents(store, 3), foreign))


def test_latents_that_are_gone_are_not_found(stage: DenoiseStage, store: TensorStore) -> None:
    gone = latents(store, 5)
    store.release(gone)
    with pytest.raises(TensorNotFound):
        stage.prepare(asked(store, latents(store, 3), gone))
