"""Artifact stores in memory, as a gateway calls them."""

import time
from collections.abc import Callable

from services.artifacts.artifact_store import ArtifactStore
from services.artifacts.memory import MemoryPlace
from services.gateway.artifact_calls import ArtifactCalls
from services.gateway.results import Results


def artifact_calls(
    quota_bytes: int = 1 << 20,
    tenant_bytes: int | None = None,
    clock: Callable[[], float] = time.time,
) -> ArtifactCalls:
    store = ArtifactStore(MemoryPlace(), quota_bytes=quota_bytes, clock=clock)
    return ArtifactCalls(store, tenant_bytes)


def results() -> Results:
    return Results(artifact_calls(), 60)
