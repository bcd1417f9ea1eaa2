import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import torch
from pydantic import SecretStr

from denoiser_service.rank.commands import (
    Abort,
    Aborted,
    Failed,
    Finish,
    Finished,
    Prepare,
    Prepared,
    Step,
    Stepped,
)
from denoiser_service.rank.executor import RankExecutor
from denoiser_service.rank.stage import DenoiseStage
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
from triptych.domain.errors import StoreFull
from triptych.domain.generation import GenerationParameters


@pytest.fixture
def store() -> Iterator[TensorStore]:
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=60)) as store:
        yield store


def executor(
    store: TensorStore, before_step: Callable[[CountingState], None] = lambda state: None
) -> RankExecutor:
    return RankExecutor(DenoiseStage(loaded(CountingDenoiser(before_step)), store))


def prepare(
    store: TensorStore, request_id: str, wanted: GenerationParameters | None = None
) -> Prepare:
    conditioning = store.put({"increment": torch.ones(1, 2)}, tenant=TENANT, request_id=request_id)
    return Prepare(
        request_id=request_id,
        tenant=TENANT,
        parameters=wanted or parameters(steps=2),
        conditioning=conditioning,
    )


def test_every_command_has_its_reply(store: TensorStore) -> None:
    rank = executor(store)
    assert isinstance(rank.execute(prepare(store, ONE)), Prepared)
    assert isinstance(rank.execute(prepare(store, TWO)), Prepared)
    assert isinstance(rank.execute(Step(request_id=ONE)), Stepped)
    assert isinstance(rank.execute(Step(request_id=ONE)), Stepped)
    assert isinstance(rank.execute(Finish(request_id=ONE)), Finished)
    assert isinstance(rank.execute(Abort(request_id=TWO)), Aborted)


def test_latents_live_until_their_requests_deadline(store: TensorStore) -> None:
    rank = executor(store)
    asked = prepare(store, ONE).model_copy(update={"remaining_seconds": 1000.0})
    for command in (asked, Step(request_id=ONE), Step(request_id=ONE)):
        assert not isinstance(rank.execute(command), Failed)
    finished = rank.execute(Finish(request_id=ONE))
    assert isinstance(finished, Finished)
    assert finished.latents is not None
    assert finished.latents.expire_time > time.time() + 900


def test_a_refusal_keeps_its_status_reason_and_violations(store: TensorStore) -> None:
    rank = executor(store)
    reply = rank.execute(prepare(store, ONE, parameters(steps=50)))
    assert isinstance(reply, Failed)
    assert (reply.request_id, reply.status, reply.reason) == (
        ONE,
        "INVALID_ARGUMENT",
        "INVALID_REQUEST",
    )
    assert [each.field for each in reply.violations] == ["steps"]
    assert not reply.fatal
    gone = rank.execute(Step(request_id=TWO))
    assert isinstance(gone, Failed)
    assert gone.status == "NOT_FOUND"


FAILURES = [
    (ValueError("/secret/path"), "INTERNAL", False),
    (MemoryError(), "RESOURCE_EXHAUSTED", False),
    (StoreFull("no room"), "RESOURCE_EXHAUSTED", False),
    (torch.OutOfMemoryError("CUDA out of memory"), "RESOURCE_EXHAUSTED", False),
    (torch.AcceleratorError("device-side assert", 710), "INTERNAL", True),
]


@pytest.mark.parametrize(("error", "status", "fatal"), FAILURES, ids=repr)
def test_a_step_that_fails_is_a_reply_and_others_go_on(
    store: TensorStore, error: Exception, status: str, fatal: bool
) -> None:
    def fail(state: CountingState) -> None:
        if state.total_steps == 3:
            raise error

    rank = executor(store, before_step=fail)
    rank.execute(prepare(store, ONE, parameters(steps=2)))
    rank.execute(prepare(store, TWO, parameters(steps=3)))
    rank.execute(Step(request_id=ONE))
    failed = rank.execute(Step(request_id=TWO))
    assert isinstance(failed, Failed)
    assert (failed.request_id, failed.status, failed.fatal) == (TWO, status, fatal)
    # What a library says may name paths and addresses; it is for the log.
    assert "/secret/path" not in failed.message
    assert isinstance(rank.execute(Step(request_id=ONE)), Stepped)
    assert isinstance(rank.execute(Finish(request_id=ONE)), Finished)
    assert isinstance(rank.execute(Step(request_id=TWO)), Failed)
