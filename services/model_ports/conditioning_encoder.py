"""Encodes a request's prompts and pictures, unless they are remembered from an earlier one."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

import torch

from services.model_ports.encoding import Encoding
from services.model_ports.fingerprint import fingerprint
from services.model_ports.stage_model import StageModel
from services.tensor_store.conditioning_cache import ConditioningCache
from triptych.domain.conditioning_reuse import ConditioningPart, ConditioningReuse, summed


class Conditioning(NamedTuple):
    """Tensors by name, on the host, and what was looked up for them; empty without a cache."""

    tensors: dict[str, torch.Tensor]
    reuse: tuple[ConditioningReuse, ...]


class ConditioningEncoder:
    """Gives the same bits whether it remembers or not. For one thread.

    What is remembered is found by all that decides it. A tenant finds only what was encoded for
    itself: from how quickly an answer comes, nobody learns what others asked.

    Args:
        cache: what is remembered; None to encode everything.
        fingerprint: of what encodes; see services.model_ports.fingerprint.
    """

    def __init__(self, cache: ConditioningCache | None = None, fingerprint: str = "") -> None:
        self._cache = cache
        self._fingerprint = fingerprint

    def encode(
        self, encodings: Iterable[Encoding], tenant: str, pictures: Mapping[int, bytes]
    ) -> Conditioning:
        """Encodes one by one.

        Args:
            encodings: what makes up the conditioning.
            tenant: whose request it is.
            pictures: the encoded bytes of the request's pictures that are read, by their numbers.
        """
        tensors: dict[str, torch.Tensor] = {}
        reuse: list[ConditioningReuse] = []
        for each in encodings:
            if self._cache is None:
                tensors |= each.named(each.tensors())
                continue
            key = self._key(each, tenant, pictures)
            found = self._cache.get(key)
            tensors |= each.named(self._remember(key, each) if found is None else found)
            reuse.append(ConditioningReuse(each.part, 1, int(found is not None)))
        return Conditioning(tensors, summed(reuse))

    def _remember(self, key: tuple[object, ...], encoding: Encoding) -> dict[str, torch.Tensor]:
        assert self._cache is not None
        tensors = encoding.tensors()
        self._cache.put(key, tensors)
        return tensors

    def _key(
        self, encoding: Encoding, tenant: str, pictures: Mapping[int, bytes]
    ) -> tuple[object, ...]:
        # Prompts are read alike, whatever they are for.
        pictured = encoding.part is ConditioningPart.IMAGE
        seen = [hashlib.sha256(pictures[number]).hexdigest() for number in encoding.pictures]
        return (self._fingerprint, tenant, pictured, encoding.depends_on, seen)


def conditioning_encoder(
    cache: ConditioningCache | None,
    model: StageModel[Any],
    device: str,
    *settings: object,
) -> ConditioningEncoder:
    """What encodes for a stage. With a cache, all of the model's files are read once more.

    Args:
        cache: what is remembered; None to encode everything.
        model: as the stage holds it.
        device: the torch device it computes on.
        settings: what else the stage was told that decides bits.
    """
    return ConditioningEncoder(
        cache, "" if cache is None else fingerprint(model, device, *settings)
    )


ENCODES_ALL: Final = ConditioningEncoder()
"""Remembers nothing."""
