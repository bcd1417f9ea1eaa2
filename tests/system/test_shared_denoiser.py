"""A denoiser that takes steps of several requests together and bounds the memory it keeps."""

import asyncio
import io
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from services.domain.stages import RankGroupInfo
from services.rpc.stage_clients import RemoteDenoiser
from tests.system.running_cluster import RunningCluster, running_cluster, until
from triptych import (
    AsyncClient,
    CacheDit,
    Generation,
    InvalidRequestError,
    TeaCache,
)
from triptych.domain.deadline import Deadline
from triptych.domain.events import StepCompleted
from triptych.events import Event

LIMIT = 2**20


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[RunningCluster]:
    told = {
        "TRIPTYCH_DENOISER_MAX_STEP_BATCH": "3",
        "TRIPTYCH_DENOISER_MAX_RESIDENT_BYTES": "1MiB",
    }
    with running_cluster("--topology", "split", environment=told) as cluster:
        yield cluster


async def rank_group(cluster: RunningCluster) -> RankGroupInfo:
    denoiser = RemoteDenoiser(f"unix:{cluster.sockets}/denoiser.sock")
    try:
        capacity = await denoiser.capacity(Deadline.after(10))
    finally:
        await denoiser.close()
    assert capacity.rank_group is not None
    return capacity.rank_group


def pixels(generation: Generation) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(generation.data)), dtype=np.int16)


async def test_requests_that_share_steps_draw_what_they_draw_alone(
    shared_cluster: RunningCluster, split_cluster: RunningCluster
) -> None:
    many: list[dict[str, Any]] = [
        {"prompt": "a red circle", "seed": 1, "steps": 8, "guidance_scale": 3.0},
        {"prompt": "two blue hearts on a white background", "seed": 2, "steps": 5},
        {"prompt": "a green star", "seed": 3, "steps": 6, "guidance_scale": 1.0},
        {"prompt": "a red circle", "seed": 4, "steps": 7, "cache": TeaCache(rel_l1_thresh=0)},
    ]
    before = (await rank_group(shared_cluster)).completed_steps
    async with AsyncClient(shared_cluster.target, timeout=120) as client:
        together = await asyncio.gather(*(client.generate(**each) for each in many))
    after = await rank_group(shared_cluster)
    assert after.completed_steps - before == 8 + 5 + 6 + 7
    assert (after.held_bytes, after.reserved_bytes, after.max_resident_bytes) == (0, 0, LIMIT)
    with split_cluster.client() as client:
        for each, shared in zip(many, together, strict=True):
            difference = np.abs(pixels(client.generate(**each)) - pixels(shared))
            # Rounding may tip a value over to the next of 256.
            assert difference.max() <= 1


async def test_pictures_of_one_request_share_steps_and_are_those_of_as_many_requests(
    shared_cluster: RunningCluster, split_cluster: RunningCluster
) -> None:
    asked: dict[str, Any] = {"prompt": "a red circle", "steps": 6}
    before = (await rank_group(shared_cluster)).completed_steps
    with shared_cluster.client() as client:
        together = client.generate(**asked, seed=5, num_images=3)
    assert (await rank_group(shared_cluster)).completed_steps - before == 3 * 6
    with split_cluster.client() as client:
        for number, picture in enumerate(together.pictures()):
            alone = client.generate(**asked, seed=5 + number)
            shared = np.asarray(Image.open(io.BytesIO(picture)), dtype=np.int16)
            # See above.
            assert np.abs(pixels(alone) - shared).max() <= 1
    assert until(lambda: shared_cluster.stored_tensors() == [])


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"width": 1024, "height": 1024}, "width"),
        (
            {"width": 256, "height": 256, "cache": CacheDit(taylorseer_order=4)},
            "acceleration.cache",
        ),
    ],
)
def test_a_request_that_would_never_fit_is_refused_with_the_limit_and_leaves_nothing(
    asked: dict[str, object], field: str, shared_cluster: RunningCluster
) -> None:
    with shared_cluster.client() as client, pytest.raises(InvalidRequestError) as refusal:
        client.generate("a red circle", steps=10, **asked)
    (violation,) = refusal.value.violations
    assert violation.field == field
    assert f"allowed are at most {LIMIT}" in violation.description
    assert until(lambda: shared_cluster.stored_tensors() == [])


@pytest.mark.timeout(240)
async def test_a_rank_that_dies_under_shared_steps_costs_none_of_them_more_than_time(
    shared_cluster: RunningCluster,
) -> None:
    stepping: set[int] = set()
    asked: list[dict[str, Any]] = [
        {"prompt": "a red circle", "seed": seed, "steps": 40} for seed in (1, 2)
    ]

    def kill_once_both_step(seed: int, event: Event) -> None:
        if isinstance(event, StepCompleted) and seed not in stepping:
            stepping.add(seed)
            if len(stepping) == len(asked):
                shared_cluster.kill("rank")

    with shared_cluster.healing("rank"):
        async with AsyncClient(shared_cluster.target, timeout=120) as client:
            hurt = await asyncio.gather(
                *(
                    client.generate(**each, on_event=partial(kill_once_both_step, each["seed"]))
                    for each in asked
                )
            )
    with shared_cluster.client() as client:
        for each, drawn in zip(asked, hurt, strict=True):
            # See above.
            assert np.abs(pixels(client.generate(**each)) - pixels(drawn)).max() <= 1
    assert until(lambda: shared_cluster.stored_tensors() == [])
    assert (await rank_group(shared_cluster)).held_bytes == 0
