"""Randomness of libraries that draw from torch's one generator."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

# A process may hold several models, each with a thread of its own.
_GENERATORS = Lock()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's global generators inside, and leaves them outside as they were; one at a time.

    Args:
        seed: 0 to 2**63 - 1.
        device: whose generator is seeded beside the host's.
    """
    devices = [] if device.type == "cpu" else [device]
    with (
        _GENERATORS,
        torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"),
    ):
        torch.manual_seed(seed)
        yield
