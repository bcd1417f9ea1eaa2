"""What one encoder has encoded, all that share its store find; the picture has the same bits."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from services.domain.stages import Encoded
from tests.system.lone_encoder import lone_encoder
from tests.system.running_cluster import RunningCluster, running_cluster
from tests.valkey_server import key_value_server
from triptych import Generation
from triptych.domain.conditioning_reuse import ConditioningReuse

pytestmark = pytest.mark.timeout(300)
PROMPT, NEGATIVE_PROMPT = "a green square, far away", "fog"


@pytest.fixture(params=["shm", "valkey"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "shm":
        yield f"shm://{tmp_path}/store"
        return
    with key_value_server() as server:
        yield server.url


def found(reuse: Sequence[ConditioningReuse]) -> dict[str, tuple[int, int]]:
    """How many were looked up and found, by what they are."""
    return {str(each.part): (each.looked_up, each.reused) for each in reuse}


def of(encoded: Encoded) -> dict[str, tuple[int, int]]:
    return found(encoded.conditioning_reuse)


def drawn(cluster: RunningCluster, seed: int, prompt: str = PROMPT) -> Generation:
    with cluster.client() as client:
        return client.generate(prompt, negative_prompt=NEGATIVE_PROMPT, steps=2, seed=seed)


def reused(generation: Generation) -> dict[str, tuple[int, int]]:
    return {each.part: (each.looked_up, each.reused) for each in generation.conditioning_reuse}


def test_a_prompt_is_encoded_for_its_first_seed_alone_and_the_bits_are_the_same() -> None:
    missed = {"prompt": (1, 0), "negative_prompt": (1, 0)}
    with running_cluster() as cluster:
        first = [drawn(cluster, seed) for seed in (1, 2, 1)]
        other = drawn(cluster, 1, "a red circle")
        assert cluster.stored_tensors() == []
        store = cluster.store
        assert [each for each in store.rglob("*") if each.stat().st_size > 1000]
    assert not store.exists(), "nothing stays of a cluster that has ended"
    with running_cluster("--topology", "fused", "--conditioning-cache", "0") as forgetful:
        fresh = [drawn(forgetful, seed) for seed in (1, 2, 1)]
    assert [each.data for each in first] == [each.data for each in fresh]
    assert [reused(each) for each in first] == [
        missed,
        {"prompt": (1, 1), "negative_prompt": (1, 1)},
        {"prompt": (1, 1), "negative_prompt": (1, 1)},
    ]
    assert reused(other) == {"prompt": (1, 0), "negative_prompt": (1, 1)}
    assert [reused(each) for each in fresh] == [{}, {}, {}]


async def test_encoders_that_share_a_store_find_what_another_has_encoded_even_if_it_was_killed(
    store: str, tmp_path: Path
) -> None:
    first = {"prompt": PROMPT, "negative_prompt": NEGATIVE_PROMPT}
    async with lone_encoder(tmp_path, store) as one, lone_encoder(tmp_path, store) as other:
        assert of(await one.encode("a", **first)) == {"prompt": (1, 0), "negative_prompt": (1, 0)}
        one.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(one.process.wait)
        again = await other.encode("b", **first)
        assert of(again) == {"prompt": (1, 1), "negative_prompt": (1, 1)}
        # But not for a tenant who has not asked for it.
        assert of(await other.encode("c", "another", **first))["prompt"] == (1, 0)
        assert of(await other.encode("d", "another", **first))["prompt"] == (1, 1)


async def test_more_than_the_cache_may_hold_pushes_out_what_was_not_asked_for_longest(
    tmp_path: Path,
) -> None:
    # The demo model's prompt takes about 5 KiB.
    flags = ("--conditioning-cache-bytes", "14000")
    async with lone_encoder(tmp_path, f"shm://{tmp_path}/store", *flags) as encoder:
        prompts = [f"{number} green squares, far away" for number in range(6)]
        for number, prompt in enumerate(prompts):
            await encoder.encode(str(number), prompt=prompt, negative_prompt=NEGATIVE_PROMPT)
        latest = await encoder.encode("e", prompt=prompts[-1], negative_prompt=NEGATIVE_PROMPT)
        assert of(latest) == {"prompt": (1, 1), "negative_prompt": (1, 1)}
        oldest = await encoder.encode("f", prompt=prompts[0], negative_prompt=NEGATIVE_PROMPT)
        assert of(oldest) == {"prompt": (1, 0), "negative_prompt": (1, 1)}
