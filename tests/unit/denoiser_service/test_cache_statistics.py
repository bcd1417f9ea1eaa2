import pytest

from denoiser_service.service.cache_statistics import always_computed_share, cache_statistics
from triptych.domain.acceleration import Cache, CacheDit, CacheSupport, TeaCache
from triptych.domain.cache_statistics import BranchDecision, BranchStatistics
from triptych.domain.events import StepCompleted


def steps(*told: tuple[float, str]) -> list[StepCompleted]:
    """Steps from their seconds and, branch by branch, c for computed and r for reused."""
    return [
        StepCompleted(
            number,
            len(told),
            0.5,
            seconds,
            tuple(
                BranchDecision(branch, decided == "r", None)
                for branch, decided in zip(("cond", "uncond"), decisions, strict=False)
            ),
        )
        for number, (seconds, decisions) in enumerate(told, start=1)
    ]


def test_branches_are_counted_one_by_one_and_together() -> None:
    did = cache_statistics(steps((3, "cc"), (2, "rc"), (2, "rc"), (1, "rr")), 0)
    assert did.branches == (BranchStatistics("cond", 1, 3), BranchStatistics("uncond", 3, 1))
    assert (did.computed_forwards, did.reused_forwards, did.reused_share) == (4, 4, 0.5)


def test_the_estimate_gives_back_what_reused_forwards_do_not_compute() -> None:
    half = steps((1, "c"), (1, "r"))
    assert cache_statistics(half, 0).estimated_speedup == 2
    assert cache_statistics(half, 0.5).estimated_speedup == pytest.approx(4 / 3)
    assert cache_statistics(half, 1).estimated_speedup == 1


def test_the_realised_speed_up_compares_with_steps_that_reused_nothing() -> None:
    # The first step is slow for reasons of its own; half a step's work is no whole step.
    loop = steps((9, "cc"), (4, "cc"), (4, "cc"), (2, "rc"), (1, "rr"))
    assert cache_statistics(loop, 0).realised_speedup == 4 * 5 / 20


def test_without_a_whole_step_there_is_no_realised_speed_up() -> None:
    assert cache_statistics(steps((1, "rc"), (1, "cr")), 0).realised_speedup is None


@pytest.mark.parametrize(
    ("cache", "blocks", "share"),
    [
        (TeaCache(), (8,), 0),
        (CacheDit(), (8,), 1 / 8),
        (CacheDit(fn_compute_blocks=3, bn_compute_blocks=1), (8,), 1 / 2),
        # Both lists run theirs.
        (CacheDit(), (4, 8), 1 / 6),
        (CacheDit(fn_compute_blocks=8), (8,), 1),
    ],
)
def test_what_is_always_computed_follows_from_method_and_blocks(
    cache: Cache, blocks: tuple[int, ...], share: float
) -> None:
    assert always_computed_share(cache, CacheSupport(blocks=blocks)) == pytest.approx(share)


def test_a_request_that_decided_nothing_reused_nothing() -> None:
    did = cache_statistics(steps((1, ""), (1, "")), 0.5)
    assert (did.branches, did.estimated_speedup) == ((), 1)
