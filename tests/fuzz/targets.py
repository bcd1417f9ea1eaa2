"""Every door, together."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fuzz.calls import Callers, call_targets, stored_tensors
from tests.fuzz.campaign import Target
from tests.fuzz.command_line import address_target, cache_target, request_target
from tests.fuzz.configuration import document_targets, settings_target, store_url_target
from tests.fuzz.entries import entry_target
from tests.fuzz.handles import handle_targets
from tests.fuzz.pictures import picture_target
from tests.fuzz.requests import request_targets
from tests.system.running_cluster import RunningCluster


@contextmanager
def local_targets() -> Iterator[list[Target]]:
    """Those that need no cluster."""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as shared,
        tempfile.TemporaryDirectory() as directory,
        handle_targets(Path(shared) / "tensors") as handles,
        entry_target(Path(shared) / "entries") as entries,
        request_targets() as requests,
    ):
        yield [
            *requests,
            *handles,
            entries,
            picture_target(),
            settings_target(),
            store_url_target(),
            *document_targets(Path(directory)),
            cache_target(),
            request_target(),
            address_target(),
        ]


@contextmanager
def cluster_targets(cluster: RunningCluster) -> Iterator[list[Target]]:
    """Those that are calls to a running cluster, which must be as before when the block is left."""
    with Callers(cluster) as callers, stored_tensors(cluster) as tensors:
        picture = _draw(cluster)
        yield call_targets(callers, tensors)
        callers.release()
        assert callers.busy() == dict.fromkeys(callers.stages, (0, 0, 0))
        assert _draw(cluster) == picture


def _draw(cluster: RunningCluster) -> bytes:
    with cluster.client() as client:
        return client.generate("a red circle", width=64, height=64, steps=2, seed=7).data
