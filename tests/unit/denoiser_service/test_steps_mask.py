import cache_dit
import pytest

from denoiser_service.rank.acceleration.cache_dit import steps_mask
from triptych.domain.acceleration import MaskPolicy

# Written down by hand from the published bins of 8 and 28 steps, which are cut for 20 steps and
# stretched for 50: 1 for a step that is computed.
MASKS = {
    (8, "slow"): "11111 0 11",
    (8, "medium"): "1111 0 1 0 1",
    (8, "fast"): "111 0 1 00 1",
    (8, "ultra"): "11 00 1 00 1",
    (20, "slow"): "11111111 0 111 00 111 00 1",
    (20, "medium"): "111111 0 11 000 11 000 1 0 1",
    (20, "fast"): "111111 0 1 00000000000 1",
    (20, "ultra"): "1111 000000000000000 1",
    (28, "slow"): "11111111 0 111 00 111 00 11 00 1 000 1",
    (28, "medium"): "111111 0 11 000 11 000 11 000 11 000 1",
    (28, "fast"): "111111 0 1 000 1 0000 1 00000 1 0000 1",
    (28, "ultra"): "1111 00 1 00000 1 000000 1 0000000 1",
    (50, "slow"): "1111111111111111111111 00 11111 000 11111 000 111 000 11 0 1",
    (50, "medium"): "1111111111111111 00 111 00000 111 00000 111 00000 111 0000 1",
    (50, "fast"): "11111111111 00 11 00000 11 0000000 11 000000000 11 0000000 1",
    (50, "ultra"): "1111111 000 11 000000000 11 00000000000 11 0000000000000 1",
}


@pytest.mark.parametrize(("steps", "policy"), MASKS)
def test_a_mask_is_the_one_that_was_published(steps: int, policy: str) -> None:
    mask = [int(each) for each in MASKS[steps, policy].replace(" ", "")]
    assert len(mask) == steps
    assert cache_dit.steps_mask(total_steps=steps, mask_policy=policy) == mask
    assert steps_mask(MaskPolicy(policy), steps) == mask


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
def test_an_expert_with_fewer_steps_than_there_are_masks_for_computes_them_all(steps: int) -> None:
    assert steps_mask(MaskPolicy.ULTRA, steps) == [1] * steps
