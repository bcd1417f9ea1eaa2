import math
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
import xxhash
from pydantic import SecretStr

from denoiser_service.rank.stage import DenoiseStage
from services.domain.stages import DenoiseRequest
from services.domain.tensor_ref import Seal
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.unit.denoiser_service.fakes import (
    ONE,
    TENANT,
    TWO,
    CountingDenoiser,
    CountingState,
    loaded,
)
from tests.unit.model_ports.fake_model import parameters
from triptych.domain.errors import (
    InvalidRequest,
    ModelNotFound,
    NotFound,
    TensorNotFound,
    TensorRefused,
    TriptychError,
)
from triptych.domain.generation import GenerationParameters


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


@pytest.fixture
def stage(store: TensorStore) -> DenoiseStage:
    return DenoiseStage(loaded(CountingDenoiser()), store)


def asked(
    store: TensorStore,
    request_id: str = ONE,
    wanted: GenerationParameters | None = None,
    increment: float = 1.0,
) -> DenoiseRequest:
    tensors = {"increment": torch.full((1, 2), increment)}
    conditioning = store.put(tensors, tenant=TENANT, request_id=request_id)
    return DenoiseRequest(request_id, TENANT, wanted or parameters(), conditioning)


def run(stage: DenoiseStage, request: DenoiseRequest) -> None:
    for _ in range(stage.prepare(request).total_steps):
        stage.step(request.request_id)


def test_a_request_is_prepared_stepped_and_finished(
    stage: DenoiseStage, store: TensorStore
) -> None:
    request = asked(store, wanted=parameters(seed=10, steps=3), increment=2.0)
    assert stage.prepare(request).total_steps == 3
    steps = [stage.step(ONE) for _ in range(3)]
    assert [(each.step, each.total_steps) for each in steps] == [(1, 3), (2, 3), (3, 3)]
    assert [each.sigma for each in steps] == pytest.approx([1, 2 / 3, 1 / 3])
    assert all(each.seconds >= 0 for each in steps)
    finished = stage.finish(ONE)
    with store.get(finished.latents, tenant=TENANT, request_id=ONE) as tensors:
        assert torch.equal(tensors["latents"], torch.full((1, 2), 16.0))


def test_equal_latents_have_equal_checksums_and_no_others(
    stage: DenoiseStage, store: TensorStore
) -> None:
    checksums = []
    for request_id, seed in ((ONE, 1), (TWO, 1), (ONE, 2)):
        run(stage, asked(store, request_id, parameters(seed=seed)))
        checksums.append(stage.finish(request_id).latents_checksum_xxh3)
    assert checksums[0] == checksums[1] != checksums[2]
    data = torch.full((1, 2), 4.0).numpy().tobytes()
    assert checksums[0] == xxhash.xxh3_64_intdigest(data)


def test_requests_take_turns_without_touching_one_another(
    stage: DenoiseStage, store: TensorStore
) -> None:
    stage.prepare(asked(store, ONE, parameters(seed=10, steps=4), increment=1.0))
    stage.prepare(asked(store, TWO, parameters(seed=20, steps=2), increment=5.0))
    for request_id in (ONE, TWO, ONE, TWO, ONE, ONE):
        stage.step(request_id)
    for request_id, expected in ((TWO, 30.0), (ONE, 14.0)):
        finished = stage.finish(request_id)
        with store.get(finished.latents, tenant=TENANT, request_id=request_id) as tensors:
            assert tensors["latents"].tolist() == [[expected, expected]]


def test_a_step_that_fails_drops_its_request_and_no_other(store: TensorStore) -> None:
    def fail(state: CountingState) -> None:
        if state.total_steps == 2 and state.completed_steps == 1:
            raise ArithmeticError

    stage = DenoiseStage(loaded(CountingDenoiser(before_step=fail)), store)
    stage.prepare(asked(store, ONE, parameters(steps=3)))
    stage.prepare(asked(store, TWO, parameters(steps=2)))
    stage.step(ONE)
    stage.step(TWO)
    with pytest.raises(ArithmeticError):
        stage.step(TWO)
    with pytest.raises(NotFound):
        stage.step(TWO)
    assert stage.step(ONE).step == 2
    stage.step(ONE)
    assert stage.finish(ONE).request_id == ONE


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_latents_that_are_not_finite_are_an_error_and_are_not_stored(
    stage: DenoiseStage, store: TensorStore, value: float
) -> None:
    request = asked(store, increment=value)
    run(stage, request)
    store.release(request.conditioning)
    with pytest.raises(TriptychError, match="latents hold NaN or infinity") as error:
        stage.finish(ONE)
    assert error.value.status == "INTERNAL"
    assert store.stats().stored_count == 0
    with pytest.raises(NotFound):
        stage.abort(ONE)


def test_an_aborted_request_is_forgotten_and_can_come_again(
    stage: DenoiseStage, store: TensorStore
) -> None:
    request = asked(store)
    stage.prepare(request)
    stage.step(ONE)
    assert stage.abort(ONE).completed_steps == 1
    for act in (stage.step, stage.finish, stage.abort):
        with pytest.raises(NotFound, match=f"request {ONE} is not being denoised here"):
            act(ONE)
    run(stage, request)
    assert stage.finish(ONE).request_id == ONE


def test_the_same_request_twice_at_once_is_refused_and_the_first_goes_on(
    stage: DenoiseStage, store: TensorStore
) -> None:
    request = asked(store)
    stage.prepare(request)
    stage.step(ONE)
    with pytest.raises(TriptychError, match="is being denoised already"):
        stage.prepare(request)
    assert stage.step(ONE).step == 2


def test_steps_beyond_the_last_and_finishing_before_it_are_errors(
    stage: DenoiseStage, store: TensorStore
) -> None:
    run(stage, asked(store, ONE))
    with pytest.raises(TriptychError, match="has done all of its 3 steps"):
        stage.step(ONE)
    stage.prepare(asked(store, TWO))
    stage.step(TWO)
    with pytest.raises(TriptychError, match="has done 1 of 3 steps"):
        stage.finish(TWO)


def test_conditioning_that_is_gone_or_foreign_leaves_nothing_behind(
    stage: DenoiseStage, store: TensorStore
) -> None:
    request = asked(store)
    foreign = DenoiseRequest(TWO, TENANT, request.parameters, request.conditioning)
    with pytest.raises(TensorRefused):
        stage.prepare(foreign)
    store.release(request.conditioning)
    with pytest.raises(TensorNotFound):
        stage.prepare(request)
    for request_id in (ONE, TWO):
        with pytest.raises(NotFound):
            stage.step(request_id)


def test_requests_the_model_cannot_do_are_refused(stage: DenoiseStage, store: TensorStore) -> None:
    with pytest.raises(ModelNotFound):
        stage.prepare(asked(store, wanted=parameters(model="another")))
    with pytest.raises(InvalidRequest, match="steps: is 21"):
        stage.prepare(asked(store, wanted=parameters(steps=21)))
