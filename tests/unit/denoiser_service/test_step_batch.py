from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from denoiser_service.rank.commands import (
    Abort,
    Failed,
    Finish,
    Finished,
    Prepare,
    Prepared,
    Step,
    StepBatch,
    Stepped,
    SteppedBatch,
)
from denoiser_service.rank.executor import RankExecutor
from denoiser_service.rank.joint_forward import Forward
from denoiser_service.rank.stage import DenoiseStage
from services.domain.tensor_ref import Seal
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.unit.denoiser_service.batching import BatchingDenoiser
from tests.unit.denoiser_service.fakes import (
    ONE,
    TENANT,
    TWO,
    CountingDenoiser,
    CountingState,
    loaded,
)
from tests.unit.model_ports.fake_model import parameters

THREE = "3" * 32


class Rank:
    """An executor, and what it answers."""

    def __init__(
        self, denoiser: CountingDenoiser, store: TensorStore, *, shares_steps: bool = True
    ) -> None:
        self._store = store
        self._shares_steps = shares_steps
        self.executor = RankExecutor(DenoiseStage(loaded(denoiser), store))

    def prepare(self, request_id: str, *, tokens: int = 1, **asked: object) -> Prepared:
        """Takes in a request that starts at its seed and adds 1 at each step."""
        ref = self._store.put(
            {"increment": torch.ones(1, 1 + tokens)}, tenant=TENANT, request_id=request_id
        )
        wanted = parameters(**asked)
        reply = self.executor.execute(
            Prepare(
                request_id=request_id,
                tenant=TENANT,
                parameters=wanted,
                conditioning=ref,
                shares_steps=self._shares_steps,
            )
        )
        assert isinstance(reply, Prepared), reply
        return reply

    def step(self, *request_ids: str) -> tuple[Stepped | Failed, ...]:
        reply = self.executor.execute(StepBatch(request_ids=request_ids))
        assert isinstance(reply, SteppedBatch), reply
        return reply.replies

    def finish(self, request_id: str) -> list[float]:
        reply = self.executor.execute(Finish(request_id=request_id))
        assert isinstance(reply, Finished), reply
        assert reply.latents is not None
        with self._store.get(reply.latents, tenant=TENANT, request_id=request_id) as tensors:
            return [float(each) for each in tensors["latents"].flatten()]


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


def test_requests_of_one_key_take_a_step_in_one_forward(store: TensorStore) -> None:
    denoiser = BatchingDenoiser()
    rank = Rank(denoiser, store)
    keys = [rank.prepare(ONE, seed=10, steps=3).batch_key, rank.prepare(TWO, seed=20).batch_key]
    assert keys[0] == keys[1] is not None
    one, two = rank.step(ONE, TWO)
    assert isinstance(one, Stepped)
    assert isinstance(two, Stepped)
    assert (one.request_id, one.step, two.request_id, two.step) == (ONE, 1, TWO, 1)
    assert one.seconds > 0
    assert one.batch_key == two.batch_key == keys[0]
    assert denoiser.adder.batches == [[10, 20]]
    rank.step(ONE, TWO)
    last, _ = rank.step(ONE, TWO)
    assert isinstance(last, Stepped)
    assert last.batch_key is None
    assert denoiser.adder.batches == [[10, 20], [11, 21], [12, 22]]
    assert rank.finish(ONE) == [13, 13]
    assert rank.finish(TWO) == [23, 23]


@pytest.mark.parametrize("asked", [{"width": 128}, {"tokens": 2}])
def test_requests_of_other_sizes_have_other_keys(store: TensorStore, asked: dict[str, int]) -> None:
    rank = Rank(BatchingDenoiser(), store)
    tokens = asked.pop("tokens", 1)
    first = rank.prepare(ONE).batch_key
    assert first != rank.prepare(TWO, tokens=tokens, **asked).batch_key


def test_what_cannot_share_a_forward_is_stepped_all_the_same(store: TensorStore) -> None:
    denoiser = BatchingDenoiser()
    rank = Rank(denoiser, store)
    rank.prepare(ONE, seed=1)
    rank.prepare(TWO, seed=2, tokens=2)
    rank.prepare(THREE, seed=3)
    assert all(isinstance(each, Stepped) for each in rank.step(ONE, TWO, THREE))
    assert sorted(denoiser.adder.batches) == [[1, 3], [2]]


def test_who_fails_after_the_forward_is_dropped_and_the_others_go_on(store: TensorStore) -> None:
    def fail(state: object) -> None:
        if float(state.value[0, 0]) == 20:  # type: ignore[attr-defined]
            raise ArithmeticError

    rank = Rank(BatchingDenoiser(after_forward=fail), store)
    for request_id, seed in ((ONE, 10), (TWO, 20), (THREE, 30)):
        rank.prepare(request_id, seed=seed, steps=2)
    one, two, three = rank.step(ONE, TWO, THREE)
    assert isinstance(two, Failed)
    assert two.message == "the denoiser failed to step the request: ArithmeticError"
    assert isinstance(one, Stepped)
    assert isinstance(three, Stepped)
    gone, *_ = rank.step(TWO, ONE, THREE)
    assert isinstance(gone, Failed)
    assert gone.status == "NOT_FOUND"
    assert rank.finish(ONE) == [12, 12]
    assert rank.finish(THREE) == [32, 32]


@pytest.mark.parametrize("steps_done", [0, 1])
def test_who_fails_before_its_next_forward_is_forgotten(
    store: TensorStore, steps_done: int
) -> None:
    failing = True

    def fail(state: CountingState) -> None:
        if failing and state.completed_steps == steps_done:
            raise MemoryError

    rank = Rank(BatchingDenoiser(before_step=fail), store)
    if steps_done:
        rank.prepare(ONE)
        (failed,) = rank.step(ONE)
        assert isinstance(failed, Failed)
        assert failed.status == "RESOURCE_EXHAUSTED"
    else:
        with pytest.raises(AssertionError, match="no memory left to prepare"):
            rank.prepare(ONE)
    gone = rank.executor.execute(Abort(request_id=ONE))
    assert isinstance(gone, Failed)
    assert gone.status == "NOT_FOUND"
    failing = False
    rank.prepare(ONE)


@pytest.mark.parametrize("error", [MemoryError, ArithmeticError])
def test_a_forward_that_fails_for_all_is_made_for_each_alone(
    store: TensorStore, error: type[Exception]
) -> None:
    def fail(values: list[float]) -> None:
        if len(values) > 1 or values == [20]:
            raise error

    denoiser = BatchingDenoiser(fail)
    rank = Rank(denoiser, store)
    for request_id, seed in ((ONE, 10), (TWO, 20), (THREE, 30)):
        rank.prepare(request_id, seed=seed, steps=2)
    one, two, three = rank.step(ONE, TWO, THREE)
    assert isinstance(one, Stepped)
    assert isinstance(two, Failed)
    assert isinstance(three, Stepped)
    assert denoiser.adder.batches == [[10], [30]]
    rank.step(ONE, THREE)
    assert rank.finish(ONE) == [12, 12]


def test_requests_whose_forwards_cannot_be_compared_take_their_steps_alone(
    store: TensorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    denoiser = BatchingDenoiser()
    rank = Rank(denoiser, store)
    for request_id, seed in ((ONE, 10), (TWO, 20)):
        rank.prepare(request_id, seed=seed, steps=2)
    monkeypatch.setattr(Forward, "goes_with", fail)
    assert all(isinstance(reply, Stepped) for reply in rank.step(ONE, TWO))
    assert denoiser.adder.batches == [[10], [20]]


def test_an_error_of_the_device_ends_the_rank_whoever_met_it(store: TensorStore) -> None:
    def fail(values: list[float]) -> None:
        raise torch.AcceleratorError("device-side assert")

    rank = Rank(BatchingDenoiser(fail), store)
    rank.prepare(ONE)
    rank.prepare(TWO)
    reply = rank.executor.execute(StepBatch(request_ids=(ONE, TWO)))
    assert isinstance(reply, Failed)
    assert reply.fatal


def test_a_request_can_leave_between_two_steps_of_a_batch(store: TensorStore) -> None:
    denoiser = BatchingDenoiser()
    rank = Rank(denoiser, store)
    for request_id, seed in ((ONE, 10), (TWO, 20), (THREE, 30)):
        rank.prepare(request_id, seed=seed, steps=2)
    rank.step(ONE, TWO, THREE)
    rank.executor.execute(Abort(request_id=TWO))
    rank.step(ONE, THREE)
    assert denoiser.adder.batches == [[10, 20, 30], [11, 31]]
    assert rank.finish(THREE) == [32, 32]


@pytest.mark.parametrize(
    ("denoiser", "shares_steps"), [(BatchingDenoiser(), False), (CountingDenoiser(), True)]
)
def test_where_steps_are_taken_alone_there_are_no_keys(
    store: TensorStore, denoiser: CountingDenoiser, shares_steps: bool
) -> None:
    rank = Rank(denoiser, store, shares_steps=shares_steps)
    assert rank.prepare(ONE).batch_key is None
    stepped = rank.executor.execute(Step(request_id=ONE))
    assert isinstance(stepped, Stepped)
    assert stepped.batch_key is None


def test_a_model_that_steps_alone_refuses_a_batch_and_goes_on(store: TensorStore) -> None:
    rank = Rank(CountingDenoiser(), store)
    rank.prepare(ONE)
    rank.prepare(TWO)
    refused = rank.executor.execute(StepBatch(request_ids=(ONE, TWO)))
    assert isinstance(refused, Failed)
    assert refused.message == "requests take their steps alone here"
    assert isinstance(rank.executor.execute(Step(request_id=ONE)), Stepped)


def test_asking_for_a_key_changes_nothing(store: TensorStore) -> None:
    alone = [
        _stepped(Rank(BatchingDenoiser(), store, shares_steps=shares)) for shares in (True, False)
    ]
    assert alone[0] == alone[1] == [13, 13]


def _stepped(rank: Rank) -> list[float]:
    for _ in range(rank.prepare(ONE, seed=10).total_steps):
        assert isinstance(rank.executor.execute(Step(request_id=ONE)), Stepped)
    return rank.finish(ONE)
