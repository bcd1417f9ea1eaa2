import pytest

from denoiser_service.service.resumption import Resumption
from services.domain.checkpoint import Checkpoint, CheckpointPart
from tests.unit.domain.examples import TENSOR_REF
from triptych.domain.parallel import ParallelDegrees

TWO_RANKS = ParallelDegrees(cfg=2)


FIRST, SECOND = (CheckpointPart(rank, TENSOR_REF) for rank in range(2))


def of_two(step: int, *parts: CheckpointPart, store_seconds: float = 0.0) -> Checkpoint:
    """What one rank has stored."""
    return Checkpoint(step, parts, TWO_RANKS, store_seconds)


def test_a_request_is_saved_every_so_many_steps_but_not_after_its_last() -> None:
    resumption, saved = Resumption(3), []
    for completed in range(1, 10):
        if resumption.due(completed, 9):
            resumption.begin(completed)
            saved.append(completed)
    assert saved == [3, 6]


def test_a_request_that_is_never_saved_ends_with_its_ranks() -> None:
    resumption = Resumption(0)
    assert not any(resumption.due(completed, 9) for completed in range(10))
    assert not resumption.lost(5)


def test_a_checkpoint_counts_once_every_rank_has_stored_its_part() -> None:
    resumption = Resumption(2)
    assert resumption.take([of_two(2, FIRST), None]) is None
    assert (resumption.checkpoint, resumption.step, resumption.kept) == (None, 0, None)
    whole = of_two(2, FIRST, SECOND)
    assert resumption.take([None, of_two(2, SECOND)]) == whole
    assert (resumption.checkpoint, resumption.kept) == (whole, 2)
    assert resumption.take([None, None]) is None


def test_a_checkpoint_is_whole_without_parts_of_ranks_that_had_nothing_to_store() -> None:
    resumption = Resumption(2)
    assert resumption.take([of_two(2, FIRST), of_two(2)]) == of_two(2, FIRST)


def test_a_request_goes_on_from_what_it_came_with_until_it_is_saved_itself() -> None:
    brought = Checkpoint(7, (FIRST,))
    resumption = Resumption(3, brought)
    assert (resumption.checkpoint, resumption.step, resumption.kept) == (brought, 7, 7)
    assert [completed for completed in range(7, 12) if resumption.due(completed, 20)] == [10, 11]
    assert resumption.lost(8)
    assert resumption.checkpoint == brought
    # Nobody got further than where it came from.
    assert [Resumption(3, brought).lost(7) for _ in range(3)] == [True] * 3
    resumption.forget()
    assert (resumption.checkpoint, resumption.kept) == (None, None)


def test_of_what_some_ranks_could_not_store_the_last_whole_one_counts() -> None:
    resumption = Resumption(2)
    resumption.take([of_two(2), of_two(2)])
    resumption.take([of_two(4), None])
    resumption.take([of_two(6), of_two(6)])
    assert resumption.step == 6
    # Too late: those who stored it have released it.
    resumption.take([None, of_two(4)])
    assert resumption.step == 6


def test_parts_of_ranks_that_are_gone_are_completed_by_no_others() -> None:
    resumption = Resumption(2)
    resumption.take([of_two(2), None])
    assert resumption.lost(3)
    resumption.take([None, of_two(2)])
    assert resumption.checkpoint is None


def test_a_request_is_tried_again_until_it_gets_no_further_three_times() -> None:
    resumption = Resumption(2)
    assert all(resumption.lost(completed) for completed in range(1, 20))
    assert [resumption.lost(19) for _ in range(3)] == [True, True, False]


def test_after_a_loss_it_is_saved_as_many_steps_after_where_it_goes_on() -> None:
    resumption = Resumption(4)
    resumption.begin(4)
    resumption.take([Checkpoint(4, (FIRST,))])
    resumption.begin(8)
    assert resumption.lost(9)
    assert not resumption.due(7, 20)
    assert resumption.due(8, 20)
    resumption.forget()
    assert (resumption.step, resumption.due(4, 20)) == (0, True)


@pytest.mark.parametrize(
    ("store_seconds", "step_seconds", "every"), [(0.05, 0.5, 10), (0.06, 0.5, 12), (0.001, 9.0, 1)]
)
def test_a_request_is_saved_so_often_that_storing_takes_a_hundredth_of_its_time(
    store_seconds: float, step_seconds: float, every: int
) -> None:
    resumption, saved = Resumption(None), []
    for completed in range(1, 50):
        resumption.stepped(step_seconds)
        if saved and resumption.step < saved[-1]:
            stored = Checkpoint(saved[-1], (FIRST,), store_seconds=store_seconds)
            resumption.take([stored])
        if resumption.due(completed, 50):
            resumption.begin(completed)
            saved.append(completed)
    # The first time nobody knows what it takes.
    assert saved == list(range(4, 50, every))


def test_what_the_slowest_rank_takes_decides() -> None:
    resumption = Resumption(None)
    resumption.stepped(1.0)
    slow = of_two(4, store_seconds=0.08)
    resumption.begin(4)
    resumption.take([of_two(4), slow])
    assert [resumption.due(completed, 50) for completed in (11, 12)] == [False, True]
