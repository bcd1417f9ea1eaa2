import math
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from denoiser_service.rank.stage import DenoiseStage
from services.domain.stages import DenoiseRequest
from services.domain.tensor_ref import Seal, TensorRef
from services.model_ports.stages import Tensors
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
from triptych.domain.errors import StoreFull


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


def prepared(
    store: TensorStore,
    request_id: str = ONE,
    denoiser: CountingDenoiser | None = None,
    **asked: int,
) -> DenoiseStage:
    stage = DenoiseStage(loaded(denoiser or CountingDenoiser()), store)
    tensors = {"increment": torch.ones(1, 2)}
    conditioning = store.put(tensors, tenant=TENANT, request_id=request_id)
    stage.prepare(DenoiseRequest(request_id, TENANT, parameters(**asked), conditioning))
    store.release(conditioning)
    return stage


def value(store: TensorStore, ref: TensorRef) -> float:
    with store.get(ref, tenant=TENANT, request_id=ref.request_id) as tensors:
        return float(tensors["latents"][0, 0])


def test_every_so_many_steps_what_the_loop_is_heading_for_is_stored(store: TensorStore) -> None:
    stage = prepared(store, seed=10, steps=7, preview_every_steps=3)
    previews = [stage.step(ONE).preview for _ in range(7)]
    assert [each is not None for each in previews] == [False, False, True] * 2 + [False]
    assert [value(store, each) for each in previews if each] == [17, 17]


def test_nothing_is_stored_unless_it_is_asked_for(store: TensorStore) -> None:
    stage = prepared(store, steps=3)
    assert [stage.step(ONE).preview for _ in range(3)] == [None] * 3
    assert store.stats().stored_count == 0


def test_however_many_nobody_draws_only_the_last_few_are_kept(store: TensorStore) -> None:
    stage = prepared(store, steps=20, preview_every_steps=1)
    for _ in range(20):
        newest = stage.step(ONE).preview
    assert store.stats().stored_count == 4
    assert newest is not None
    assert value(store, newest) == 20


def test_an_aborted_request_leaves_none_and_others_theirs(store: TensorStore) -> None:
    stage = prepared(store, steps=3, preview_every_steps=1)
    other = prepared(store, TWO, steps=3, preview_every_steps=1)
    for _ in range(2):
        stage.step(ONE)
        other.step(TWO)
    # As when its caller left and had everything released while a step was under way.
    store.release_request(TENANT, ONE)
    stage.step(ONE)
    stage.abort(ONE)
    assert store.stats().stored_count == 2
    assert store.release_request(TENANT, TWO) == 2


def test_one_that_cannot_be_stored_costs_the_request_nothing(
    store: TensorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = prepared(store, steps=2, preview_every_steps=1)

    def full(*_: object, **__: object) -> TensorRef:
        raise StoreFull("full")

    with monkeypatch.context() as patched:
        patched.setattr(store, "put", full)
        assert [stage.step(ONE).preview for _ in range(2)] == [None, None]
    assert value(store, stage.finish(ONE).latents) == 2


def test_a_defect_in_making_one_costs_the_request_nothing(store: TensorStore) -> None:
    class Defective(CountingDenoiser):
        def finish(self, state: CountingState) -> Tensors:
            if state.completed_steps < state.total_steps:
                raise ArithmeticError
            return super().finish(state)

    stage = prepared(store, denoiser=Defective(), steps=3, preview_every_steps=2)
    assert [stage.step(ONE).preview for _ in range(3)] == [None] * 3
    assert value(store, stage.finish(ONE).latents) == 3


def test_a_device_that_failed_ends_the_rank_here_too(store: TensorStore) -> None:
    class Broken(CountingDenoiser):
        def finish(self, state: CountingState) -> Tensors:
            raise torch.AcceleratorError("illegal address")

    stage = prepared(store, denoiser=Broken(), steps=2, preview_every_steps=1)
    with pytest.raises(torch.AcceleratorError):
        stage.step(ONE)


def test_one_that_is_not_finite_is_for_its_drawer_to_refuse(store: TensorStore) -> None:
    stage = DenoiseStage(loaded(CountingDenoiser()), store)
    tensors = {"increment": torch.full((1, 2), math.nan)}
    conditioning = store.put(tensors, tenant=TENANT, request_id=ONE)
    asked = parameters(steps=2, preview_every_steps=1)
    stage.prepare(DenoiseRequest(ONE, TENANT, asked, conditioning))
    preview = stage.step(ONE).preview
    assert preview is not None
    assert math.isnan(value(store, preview))


def test_of_ranks_that_work_together_only_one_stores_them(store: TensorStore) -> None:
    stage = DenoiseStage(loaded(CountingDenoiser()), store, stores=False)
    conditioning = store.put({"increment": torch.ones(1, 2)}, tenant=TENANT, request_id=ONE)
    asked = parameters(steps=2, preview_every_steps=1)
    stage.prepare(DenoiseRequest(ONE, TENANT, asked, conditioning))
    assert stage.step(ONE).preview is None
    assert store.stats().stored_count == 1
    stage.abort(ONE)
