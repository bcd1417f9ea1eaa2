import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import SecretStr

from denoiser_service.rank.commands import (
    Failed,
    Finished,
    Prepare,
    Prepared,
    Save,
    Saved,
    Step,
    Stepped,
    decode_command,
)
from denoiser_service.rank.executor import RankExecutor
from denoiser_service.rank.stage import DenoiseStage
from denoiser_service.rank_group.reconcile import RanksDisagree, reconcile
from services.domain.checkpoint import Checkpoint, CheckpointPart
from services.domain.stages import DenoiseRequest
from services.domain.tensor_ref import Seal, TensorRef
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.unit.denoiser_service.fakes import ONE, TENANT, CountingDenoiser, loaded
from tests.unit.domain.examples import TENSOR_REF
from tests.unit.model_ports.fake_model import parameters
from triptych.domain.errors import (
    InvalidRequest,
    NotFound,
    StoreFull,
    TensorNotFound,
    TensorRefused,
)
from triptych.domain.parallel import ParallelDegrees

FIRST, SECOND, THIRD = (CheckpointPart(rank, TENSOR_REF) for rank in range(3))
SAVED = Saved(request_id=ONE, checkpoint=Checkpoint(2, (FIRST,)), transfer_seconds=0.5)


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


@pytest.fixture
def request_(store: TensorStore) -> DenoiseRequest:
    conditioning = store.put({"increment": torch.ones(1, 2)}, tenant=TENANT, request_id=ONE)
    return DenoiseRequest(ONE, TENANT, parameters(seed=10, steps=6), conditioning)


def begun(store: TensorStore, request: DenoiseRequest, *, number: int = 0) -> DenoiseStage:
    stage = DenoiseStage(loaded(CountingDenoiser()), store, number=number)
    stage.prepare(request)
    return stage


def after(stage: DenoiseStage, steps: int, kept: int | None = None) -> Checkpoint:
    for _ in range(steps):
        stage.step(ONE)
    return stage.save(ONE, kept).checkpoint


def held(store: TensorStore) -> int:
    """Checkpoints, beside the conditioning."""
    return store.stats().stored_count - 1


def test_another_stage_goes_on_from_a_checkpoint(
    store: TensorStore, request_: DenoiseRequest
) -> None:
    checkpoint = after(begun(store, request_), 4)
    assert checkpoint.completed_steps == 4
    other = DenoiseStage(loaded(CountingDenoiser()), store)
    prepared = other.prepare(request_, resume=checkpoint)
    assert (prepared.completed_steps, prepared.total_steps) == (4, 6)
    assert [other.step(ONE).step for _ in range(2)] == [5, 6]
    latents = other.finish(ONE).latents
    assert latents is not None
    with store.get(latents, tenant=TENANT, request_id=ONE) as tensors:
        assert tensors["latents"].tolist() == [[16, 16]]


def test_one_checkpoint_and_the_one_that_is_still_relied_upon_are_kept(
    store: TensorStore, request_: DenoiseRequest
) -> None:
    stage = begun(store, request_)
    after(stage, 1)
    assert held(store) == 1
    second = after(stage, 1)
    assert held(store) == 1
    # Of two ranks the other one may have failed to save what came since.
    for _ in range(3):
        after(stage, 1, kept=second.completed_steps)
        assert held(store) == 2
    assert readable(store, second)


def readable(store: TensorStore, checkpoint: Checkpoint) -> bool:
    first = checkpoint.part(0)
    assert first is not None
    try:
        with store.get(first, tenant=TENANT, request_id=ONE):
            return True
    except TensorNotFound:
        return False


@pytest.mark.parametrize("end", ["finish", "abort"])
def test_nothing_of_a_request_that_needs_no_checkpoint_any_more_is_kept(
    store: TensorStore, request_: DenoiseRequest, end: str
) -> None:
    checkpoint = after(begun(store, request_), 5)
    other = DenoiseStage(loaded(CountingDenoiser()), store)
    # What its writer cannot release any more, whoever goes on does.
    other.prepare(request_, resume=checkpoint)
    after(other, 1, kept=5)
    assert held(store) == 2
    ended = other.finish(ONE) if end == "finish" else other.abort(ONE)
    assert held(store) == isinstance(ended, Finished)
    assert not readable(store, checkpoint)


@pytest.mark.parametrize("end", ["finish", "abort"])
def test_of_a_request_that_leaves_the_checkpoint_that_its_caller_has_is_kept_alone(
    store: TensorStore, request_: DenoiseRequest, end: str
) -> None:
    stage = begun(store, request_)
    earlier = after(stage, 5)
    last = after(stage, 1, kept=5)
    ended = stage.finish(ONE, 6) if end == "finish" else stage.abort(ONE, 6)
    assert held(store) == 1 + isinstance(ended, Finished)
    assert readable(store, last)
    assert not readable(store, earlier)


def test_a_request_goes_on_from_no_other_ones_checkpoint_and_releases_none_of_it(
    store: TensorStore, request_: DenoiseRequest
) -> None:
    own = after(begun(store, request_), 2)
    identity = {"tenant": "another", "request_id": ONE}
    other = store.put({"latents": torch.ones(1, 2)}, **identity)
    mixed = replace(own, parts=(*own.parts, CheckpointPart(1, other)))
    stage = DenoiseStage(loaded(CountingDenoiser()), store)
    for checkpoint in (mixed, replace(own, parts=(CheckpointPart(0, other),))):
        with pytest.raises(TensorRefused, match="another tenant or request"):
            stage.prepare(request_, resume=checkpoint)
    assert readable(store, own)
    with store.get(other, **identity):
        pass


def test_a_rank_that_is_not_the_first_stores_no_latents(
    store: TensorStore, request_: DenoiseRequest
) -> None:
    checkpoint = after(begun(store, request_, number=1), 2)
    assert checkpoint.parts == ()
    assert held(store) == 0
    with pytest.raises(InvalidRequest, match="its first part holds no latents"):
        DenoiseStage(loaded(CountingDenoiser()), store).prepare(request_, resume=checkpoint)


def test_a_checkpoint_whose_tensors_are_of_another_step_is_refused(
    store: TensorStore, request_: DenoiseRequest
) -> None:
    checkpoint = replace(after(begun(store, request_), 2), completed_steps=3)
    with pytest.raises(InvalidRequest, match="completed_steps is 3; its tensors are of step 2"):
        DenoiseStage(loaded(CountingDenoiser()), store).prepare(request_, resume=checkpoint)


def test_a_request_that_cannot_be_saved_goes_on(
    store: TensorStore, request_: DenoiseRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = begun(store, request_)
    executor = RankExecutor(stage)
    earlier = after(stage, 1)

    def full(*_: object, **__: object) -> TensorRef:
        raise StoreFull("no room")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", full)
        assert isinstance(executor.execute(Step(request_id=ONE)), Stepped)
        failed = executor.execute(Save(request_id=ONE))
    assert isinstance(failed, Failed)
    assert failed.reason == StoreFull.reason
    assert readable(store, earlier)
    assert isinstance(executor.execute(Step(request_id=ONE)), Stepped)


def test_a_request_that_is_not_here_cannot_be_saved(store: TensorStore) -> None:
    with pytest.raises(NotFound):
        DenoiseStage(loaded(CountingDenoiser()), store).save(ONE)


def test_a_checkpoint_travels_with_the_command_that_resumes_it(
    store: TensorStore, request_: DenoiseRequest
) -> None:
    saved = RankExecutor(begun(store, request_)).execute(Save(request_id=ONE))
    assert isinstance(saved, Saved)
    prepare = Prepare(
        request_id=ONE,
        tenant=TENANT,
        parameters=request_.parameters,
        conditioning=request_.conditioning,
        resume=saved.checkpoint,
    )
    assert decode_command(prepare.model_dump_json().encode()) == prepare


def test_the_parts_of_all_ranks_are_one_checkpoint() -> None:
    others = [
        SAVED.model_copy(update={"checkpoint": Checkpoint(2, parts, store_seconds=len(parts))})
        for parts in ((), (THIRD,))
    ]
    whole = reconcile(Save(request_id=ONE), [SAVED, *others])
    assert isinstance(whole, Saved)
    assert whole.checkpoint == Checkpoint(2, (FIRST, THIRD), store_seconds=1)


@pytest.mark.parametrize(
    "other",
    [
        Checkpoint(3, ()),
        Checkpoint(2, (), ParallelDegrees(ring=2)),
    ],
    ids=["step", "degrees"],
)
def test_ranks_that_have_saved_something_else_disagree(other: Checkpoint) -> None:
    with pytest.raises(RanksDisagree, match="rank 1 said"):
        reconcile(Save(request_id=ONE), [SAVED, SAVED.model_copy(update={"checkpoint": other})])


def test_a_group_recomputes_what_any_of_its_ranks_could_not_restore() -> None:
    prepared = Prepared(
        request_id=ONE, total_steps=4, run_seconds=0.5, transfer_seconds=0.25, completed_steps=2
    )
    unrestored = prepared.model_copy(update={"recomputes": True})
    resume = Prepare(
        request_id=ONE, tenant=TENANT, parameters=parameters(seed=1), conditioning=TENSOR_REF
    )
    assert reconcile(resume, [prepared, unrestored]) == unrestored
    assert reconcile(resume, [prepared, prepared]) == prepared


class Gate:
    """A store's `put` that waits until the test lets it go on."""

    def __init__(self, store: TensorStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self._put = store.put
        self.open = threading.Event()
        monkeypatch.setattr(store, "put", self)

    def __call__(self, *told: Any, **named: Any) -> TensorRef:
        assert self.open.wait(60)
        return self._put(*told, **named)


def told_after(stage: DenoiseStage, most: int = 10) -> tuple[int, Checkpoint]:
    """How many steps the request has done when the rank says what it has stored."""
    for _ in range(most):
        stepped = stage.step(ONE)
        if stepped.saved:
            (checkpoint,) = stepped.saved
            assert checkpoint is not None
            return stepped.step, checkpoint
    raise AssertionError("nothing was stored")


@pytest.fixture
def long_request(store: TensorStore) -> DenoiseRequest:
    conditioning = store.put({"increment": torch.ones(1, 2)}, tenant=TENANT, request_id=ONE)
    return DenoiseRequest(ONE, TENANT, parameters(seed=10, steps=20), conditioning)


def test_steps_go_on_while_a_checkpoint_is_being_stored(
    store: TensorStore, long_request: DenoiseRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = begun(store, long_request)
    stage.step(ONE)
    gate = Gate(store, monkeypatch)
    assert stage.save(ONE, wait=False).checkpoint is None
    assert not any(stage.step(ONE).saved for _ in range(5))
    # Nothing else is begun meanwhile: a slow store gets no queue.
    stage.save(ONE, wait=False)
    gate.open.set()
    stored(stage)
    step, checkpoint = told_after(stage)
    assert (step, checkpoint.completed_steps) == (7, 1)
    first = checkpoint.part(0)
    assert first is not None
    with store.get(first, tenant=TENANT, request_id=ONE) as tensors:
        assert tensors["latents"].tolist() == [[11, 11]]
    assert not stage.step(ONE).saved


def stored(stage: DenoiseStage) -> None:
    """Waits until all that was begun is done."""
    stage._writer.submit(int).result(60)


def test_what_is_replaced_is_released_beside_the_steps_too(
    store: TensorStore, long_request: DenoiseRequest
) -> None:
    stage = begun(store, long_request)
    for kept in (None, 1, 2):
        stage.step(ONE)
        stage.save(ONE, kept, wait=False)
        stored(stage)
    told_after(stage, 1)
    stored(stage)
    # Of the second and the third.
    assert held(store) == 2


@pytest.mark.parametrize("end", ["abort", "finish"])
def test_a_request_that_ends_while_it_is_being_stored_leaves_nothing(
    store: TensorStore, request_: DenoiseRequest, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    stage = begun(store, request_)
    for _ in range(6):
        stage.step(ONE)
    with monkeypatch.context() as patch:
        gate = Gate(store, patch)
        stage.save(ONE, wait=False)
        if end == "abort":
            stage.abort(ONE)
        gate.open.set()
        if end == "finish":
            stage.finish(ONE)
        stored(stage)
    assert held(store) == (end == "finish")


@pytest.mark.parametrize("error", [StoreFull("no room"), ZeroDivisionError("a defect")])
def test_what_could_not_be_stored_is_not_told_and_the_request_goes_on(
    store: TensorStore,
    long_request: DenoiseRequest,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    stage = begun(store, long_request)
    stage.step(ONE)

    def full(*_: object, **__: object) -> TensorRef:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", full)
        stage.save(ONE, wait=False)
        stored(stage)
        assert not stage.step(ONE).saved
    stage.save(ONE, wait=False)
    stored(stage)
    assert told_after(stage)[1].completed_steps == 2


def test_ranks_tell_what_each_has_stored_in_its_own_time() -> None:
    step = Step(request_id=ONE)
    stepped = Stepped(request_id=ONE, step=3, total_steps=4, sigma=0.5, seconds=1.0)
    own = Checkpoint(2, (FIRST,))
    faster = stepped.model_copy(update={"saved": (own,)})
    one_by_one = [reconcile(step, [stepped, faster]), reconcile(step, [stepped, stepped])]
    assert [reply.saved for reply in one_by_one if isinstance(reply, Stepped)] == [(None, own), ()]


def test_a_device_that_fails_while_a_checkpoint_is_stored_ends_the_rank(
    store: TensorStore, long_request: DenoiseRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = begun(store, long_request)

    def broken(*_: object, **__: object) -> TensorRef:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)

    monkeypatch.setattr(store, "put", broken)
    stage.save(ONE, wait=False)
    stored(stage)
    failed = RankExecutor(stage).execute(Step(request_id=ONE))
    assert isinstance(failed, Failed)
    assert failed.fatal
