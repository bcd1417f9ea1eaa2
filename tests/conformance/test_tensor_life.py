"""How long tensors live that nobody releases, whichever backend keeps the bytes."""

from collections.abc import Iterator

import pytest
import torch

from services.domain.store_control import SweepReport
from tests.conformance.store_backends import (
    BACKENDS,
    LOCAL,
    REQUEST,
    TENANT,
    TTL_SECONDS,
    Backend,
)
from triptych.domain.deadline import Deadline
from triptych.domain.errors import TensorNotFound


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield from BACKENDS[request.param]()


@pytest.fixture(params=LOCAL)
def local(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The backends whose processes look for what is expired."""
    yield from LOCAL[request.param]()


def test_expired_tensors_are_reported_as_not_found(backend: Backend) -> None:
    ref = backend.put({"x": torch.ones(3)})
    backend.clock.now += TTL_SECONDS - 1
    assert backend.got(ref)
    backend.clock.now += 1
    assert isinstance(backend.error(ref), TensorNotFound)


def test_tensors_live_until_their_requests_deadline(backend: Backend) -> None:
    long = Deadline.after(10 * TTL_SECONDS)
    identity = {"tenant": TENANT, "request_id": REQUEST}
    ref = backend.store.put({"x": torch.ones(3)}, **identity, deadline=long)
    short = backend.store.put({"x": torch.ones(3)}, **identity, deadline=Deadline.after(1))
    backend.clock.now += TTL_SECONDS - 1
    assert backend.got(short)
    backend.clock.now += 8 * TTL_SECONDS
    backend.reader.sweep()
    assert backend.got(ref)
    backend.clock.now += TTL_SECONDS + 1
    assert isinstance(backend.error(ref), TensorNotFound)


def test_expired_tensors_are_swept(local: Backend) -> None:
    local.put({"x": torch.ones(3)})
    local.clock.now += TTL_SECONDS - 1
    lasting = local.put({"x": torch.ones(3)})
    assert local.reader.sweep() == SweepReport(expired=0, orphaned=0)
    local.clock.now += 1
    assert local.reader.sweep() == SweepReport(expired=1, orphaned=0)
    assert local.store.stats().stored_count == 1
    assert local.got(lasting)
