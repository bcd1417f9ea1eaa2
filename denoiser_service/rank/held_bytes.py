"""How many bytes a rank does keep of a request."""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

_CONTAINERS = (list, tuple, set, frozenset, deque)
# Modules among them: they are the model's.
_LEAVES = (str, bytes, int, float, type(None), type, nn.Module)


def held_bytes(*roots: object) -> int:
    """Of all tensors that can be reached, however they share memory.

    Args:
        roots: a request's state, and whatever else belongs to it.
    """
    storages: dict[int, int] = {}
    seen: set[int] = set()
    waiting: list[Any] = list(roots)
    while waiting:
        part = waiting.pop()
        if isinstance(part, torch.Tensor):
            storage = part.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif not isinstance(part, _LEAVES) and id(part) not in seen:
            seen.add(id(part))
            waiting.extend(_parts(part))
    return sum(storages.values())


def _parts(whole: Any) -> Iterable[Any]:  # noqa: ANN401 — states and caches are of any kind
    if isinstance(whole, Mapping):
        return whole.values()
    if isinstance(whole, _CONTAINERS):
        return whole
    # Dataclasses with slots have no dictionary.
    if names := getattr(whole, "__dataclass_fields__", None):
        return [getattr(whole, name) for name in names]
    return getattr(whole, "__dict__", {}).values()
