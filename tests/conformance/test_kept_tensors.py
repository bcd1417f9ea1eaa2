"""Tensors that are to outlive the process that put them, in every store."""

from collections.abc import Iterator

import pytest
import torch

from tests.conformance.store_backends import (
    BACKENDS,
    OTHER_REQUEST,
    REQUEST,
    STORING,
    TENANT,
    TTL_SECONDS,
    Backend,
)
from triptych.domain.errors import TensorCorrupted, TensorNotFound, TensorRefused

TENSORS = {"latents": torch.arange(6.0).reshape(2, 3), "completed_steps": torch.tensor(4)}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    yield from BACKENDS[request.param]()


@pytest.fixture(params=STORING)
def storing(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The backends that keep bytes apart from the reference."""
    yield from STORING[request.param]()


def test_what_is_kept_is_got_by_its_new_reference(backend: Backend) -> None:
    kept = backend.store.keep(backend.put(TENSORS))
    got = backend.got(kept)
    assert got.keys() == TENSORS.keys()
    assert all(torch.equal(got[name], tensor) for name, tensor in TENSORS.items())
    assert isinstance(backend.error(kept, request=OTHER_REQUEST), TensorRefused)
    backend.store.release(kept)


def test_bytes_that_changed_are_noticed(storing: Backend) -> None:
    kept = storing.store.keep(storing.put(TENSORS))
    assert isinstance(storing.error(storing.spoil(kept, 1)), TensorCorrupted)
    storing.store.release(kept)


def test_what_is_kept_is_released_alone_and_with_its_request(storing: Backend) -> None:
    first, second, others = (
        storing.store.keep(storing.put(TENSORS, request))
        for request in (REQUEST, REQUEST, OTHER_REQUEST)
    )
    assert storing.reader.release(first)
    assert isinstance(storing.error(first), TensorNotFound)
    assert storing.reader.release_request(TENANT, REQUEST) == 1
    assert isinstance(storing.error(second), TensorNotFound)
    assert storing.got(others, OTHER_REQUEST)
    storing.store.release(others)
    assert storing.reader.stats().stored_count == 0


def test_what_is_kept_expires(storing: Backend) -> None:
    kept = storing.store.keep(storing.put(TENSORS))
    storing.clock.now += TTL_SECONDS + 1
    assert isinstance(storing.error(kept), TensorNotFound)
    storing.reader.sweep()
