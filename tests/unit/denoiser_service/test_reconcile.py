import pytest

from denoiser_service.rank.commands import (
    Abort,
    Aborted,
    Command,
    Failed,
    Finish,
    Finished,
    Prepare,
    Prepared,
    Step,
    Stepped,
)
from denoiser_service.rank_group.reconcile import RanksDisagree, reconcile
from tests.unit.denoiser_service.fakes import ONE, TENANT
from tests.unit.domain.examples import TENSOR_REF
from tests.unit.model_ports.fake_model import parameters
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.errors import StoreFull

PREPARE = Prepare(
    request_id=ONE, tenant=TENANT, parameters=parameters(seed=1), conditioning=TENSOR_REF
)
STEP, FINISH, ABORT = Step(request_id=ONE), Finish(request_id=ONE), Abort(request_id=ONE)
PREPARED = Prepared(request_id=ONE, total_steps=4, run_seconds=0.5, transfer_seconds=0.25)
STEPPED = Stepped(request_id=ONE, step=1, total_steps=4, sigma=0.5, seconds=1.0)
FINISHED = Finished(
    request_id=ONE,
    latents=TENSOR_REF,
    latents_checksum_xxh3=9,
    run_seconds=0.5,
    transfer_seconds=0.25,
)
ABORTED = Aborted(request_id=ONE, completed_steps=1)
FAILED = Failed.of(ONE, StoreFull("no room"))


def test_ranks_that_agree_answer_as_the_first_whatever_time_each_took() -> None:
    slower = {"run_seconds": 9.0, "transfer_seconds": 9.0}
    assert reconcile(PREPARE, [PREPARED, PREPARED.model_copy(update=slower)]) == PREPARED
    assert reconcile(STEP, [STEPPED, STEPPED.model_copy(update={"seconds": 9.0})]) == STEPPED
    unstored = FINISHED.model_copy(update=slower | {"latents": None})
    assert reconcile(FINISH, [FINISHED, unstored]) == FINISHED
    assert reconcile(ABORT, [ABORTED, ABORTED]) == ABORTED


@pytest.mark.parametrize(("command", "reply"), [(PREPARE, PREPARED), (STEP, STEPPED)])
def test_ranks_may_keep_different_amounts_and_the_largest_counts(
    command: Command, reply: Prepared | Stepped
) -> None:
    kept = [reply.model_copy(update={"held_bytes": size}) for size in (5, 9, 7)]
    assert reconcile(command, kept) == reply.model_copy(update={"held_bytes": 9})


@pytest.mark.parametrize(
    ("command", "reply", "other"),
    [
        (PREPARE, PREPARED, {"total_steps": 5}),
        (STEP, STEPPED, {"step": 2}),
        (STEP, STEPPED, {"sigma": 0.25}),
        (FINISH, FINISHED, {"latents_checksum_xxh3": 8}),
        (ABORT, ABORTED, {"completed_steps": 2}),
    ],
)
def test_ranks_that_count_differently_disagree(
    command: Command, reply: Prepared | Stepped | Finished | Aborted, other: dict[str, object]
) -> None:
    with pytest.raises(RanksDisagree, match="rank 2 said"):
        reconcile(command, [reply, reply, reply.model_copy(update=other)])


def test_ranks_that_answer_different_commands_disagree() -> None:
    with pytest.raises(RanksDisagree):
        reconcile(STEP, [STEPPED, ABORTED])


@pytest.mark.parametrize("command", [PREPARE, STEP, FINISH, ABORT], ids=lambda each: each.kind)
def test_what_all_failed_at_is_what_the_first_says(command: Command) -> None:
    assert reconcile(command, [FAILED, FAILED]) is FAILED


def test_one_rank_may_fail_alone_to_take_a_request_in_or_to_store_its_latents() -> None:
    assert reconcile(PREPARE, [PREPARED, FAILED]) is FAILED
    assert reconcile(FINISH, [FAILED, FINISHED]) is FAILED


def test_one_rank_cannot_fail_alone_at_what_ranks_do_together() -> None:
    with pytest.raises(RanksDisagree, match="some failed to step: no room"):
        reconcile(STEP, [STEPPED, FAILED])
    with pytest.raises(RanksDisagree, match="some failed to abort"):
        reconcile(ABORT, [FAILED, ABORTED])


def _decided(**reused: bool) -> Stepped:
    decisions = [BranchDecision(branch, each, 0.5) for branch, each in reused.items()]
    return STEPPED.model_copy(update={"decisions": tuple(decisions)})


def test_branches_that_different_ranks_ran_are_put_together() -> None:
    first, second = _decided(cond=True), _decided(uncond=False)
    assert reconcile(STEP, [first, second]) == _decided(cond=True, uncond=False)
    both = reconcile(STEP, [first, first, second, second])
    assert both == _decided(cond=True, uncond=False)


def test_ranks_that_share_a_branch_and_decide_differently_disagree() -> None:
    with pytest.raises(RanksDisagree, match="rank 1 decided"):
        reconcile(STEP, [_decided(cond=True), _decided(cond=False)])


def test_the_preview_is_the_first_ranks_which_alone_stores_one() -> None:
    with_preview = STEPPED.model_copy(update={"preview": TENSOR_REF})
    assert reconcile(STEP, [with_preview, STEPPED, STEPPED]) == with_preview
