from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from denoiser_service.rank.commands import (
    Checkpoint,
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
from services.domain.stages import DenoiseRequest
from services.domain.tensor_ref import Seal, TensorRef
from services.tensor_store.tensor_store import TensorStore, open_store
from tests.unit.denoiser_service.fakes import ONE, TENANT, CountingDenoiser, loaded
from tests.unit.domain.examples import TENSOR_REF
from tests.unit.model_ports.fake_model import parameters
from triptych.domain.errors import InvalidRequest, NotFound, StoreFull, TensorNotFound
from triptych.domain.parallel import ParallelDegrees

SAVED = Saved(
    request_id=ONE, checkpoint=Checkpoint(step=2, parts=(TENSOR_REF,)), transfer_seconds=0.5
)


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
    assert checkpoint.step == 4
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
        after(stage, 1, kept=second.step)
        assert held(store) == 2
    assert readable(store, second)


def readable(store: TensorStore, checkpoint: Checkpoint) -> bool:
    first, *_ = checkpoint.parts
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


def test_a_rank_that_is_not_the_first_stores_no_latents(
    store: TensorStore, request_: DenoiseRequest
) -> None:
    checkpoint = after(begun(store, request_, number=1), 2)
    assert checkpoint.parts == (None,)
    assert held(store) == 0
    with pytest.raises(InvalidRequest, match="its first part holds no latents"):
        DenoiseStage(loaded(CountingDenoiser()), store).prepare(request_, resume=checkpoint)


def test_a_checkpoint_whose_tensors_are_of_another_step_is_refused(
    store: TensorStore, request_: DenoiseRequest
) -> None:
    checkpoint = after(begun(store, request_), 2).model_copy(update={"step": 3})
    with pytest.raises(InvalidRequest, match="step is 3; its tensors are of step 2"):
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
        SAVED.model_copy(update={"checkpoint": Checkpoint(step=2, parts=(part,))})
        for part in (None, TENSOR_REF)
    ]
    whole = reconcile(Save(request_id=ONE), [SAVED, *others])
    assert isinstance(whole, Saved)
    assert whole.checkpoint == Checkpoint(step=2, parts=(TENSOR_REF, None, TENSOR_REF))


@pytest.mark.parametrize(
    "other",
    [
        Checkpoint(step=3, parts=(None,)),
        Checkpoint(step=2, degrees=ParallelDegrees(ring=2), parts=(None,)),
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
