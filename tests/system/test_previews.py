"""Previews of a real cluster: they show what is being drawn, change nothing and leave nothing."""

import io
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.system.running_cluster import RunningCluster, until
from triptych import Completed, Event, InvalidRequestError, Preview

ASKED = {"prompt": "a red circle on a blue background", "steps": 40, "seed": 7}


@pytest.fixture(params=["split_cluster", "fused_cluster"])
def cluster(request: pytest.FixtureRequest) -> RunningCluster:
    cluster = request.getfixturevalue(request.param)
    assert isinstance(cluster, RunningCluster)
    return cluster


def events_of(cluster: RunningCluster, every: int) -> list[Event]:
    with cluster.client() as client:
        return list(client.stream(**ASKED, preview_every_steps=every))


def pixels(png: bytes, side: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).resize((side, side), Image.Resampling.BOX))


def test_previews_show_what_is_being_drawn_and_change_no_bit_of_it(cluster: RunningCluster) -> None:
    plain = events_of(cluster, 0)
    assert not any(isinstance(each, Preview) for each in plain)
    events: list[Event] = []
    previews: list[Preview] = []

    def ask() -> bool:
        events[:] = events_of(cluster, 4)
        previews[:] = [each for each in events if isinstance(each, Preview)]
        return bool(previews)

    # How many are skipped is the machine's to say: the loop waits for none, not even for the fit
    # that the first waits for.
    assert until(ask)
    steps = [each.step for each in previews]
    assert steps == sorted(set(steps))
    assert all(each % 4 == 0 for each in steps)

    result, expected = events[-1], plain[-1]
    assert isinstance(result, Completed)
    assert isinstance(expected, Completed)
    assert result.generation.data == expected.generation.data
    checksums = [each.generation.latents_checksum_xxh3 for each in (result, expected)]
    assert checksums[0] == checksums[1]
    parameters = replace(result.generation.parameters, preview_every_steps=0)
    assert parameters == expected.generation.parameters

    last = previews[-1]
    shown, drawn = pixels(last.data, 32), pixels(result.generation.data, 32)
    assert (last.width, last.height) == (32, 32)
    likeness = np.corrcoef(shown.ravel(), drawn.ravel())[0, 1]
    # It is 0.96 after the last step, and 0.81 after the fourth.
    assert likeness > 0.8


def test_nothing_of_previews_is_left_in_the_store(split_cluster: RunningCluster) -> None:
    events_of(split_cluster, 1)
    assert split_cluster.stored_tensors() == []
    with split_cluster.client() as client:
        for leave_at in (1, 3, 10):
            options = {**ASKED, "preview_every_steps": 1}
            with closing(client.stream(**options)) as events:
                for event in events:
                    if getattr(event, "step", 0) >= leave_at:
                        break
            assert until(lambda: split_cluster.stored_tensors() == [])


def test_previews_that_could_never_come_are_refused_by_their_field(
    split_cluster: RunningCluster,
) -> None:
    with (
        split_cluster.client() as client,
        pytest.raises(InvalidRequestError) as refused,
    ):
        client.generate("a red circle", steps=4, preview_every_steps=5)
    (violation,) = refused.value.violations
    assert violation.field == "preview_every_steps"
    assert violation.description == "is 5; allowed are 0 (none) to 4, the request's steps"
