"""Encodes a request's prompts and pictures, unless they are remembered from an earlier one."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import xxhash

from services.loaded_models.stage_model import StageModel
from services.model_ports.encoding import Encoding
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
        fingerprint: of what encodes; see services.loaded_models.conditioning_encoder.
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


_LIBRARIES = ("triptych", "torch", "diffusers", "transformers", "tokenizers", "ftfy", "pillow")
_PIECE_BYTES = 1 << 20


def fingerprint(model: StageModel[Any], device: str, *settings: object) -> str:
    """Differs wherever two processes might encode the same to other bits.

    Of the model's files the contents count, not where they are; XXH3-128 is enough, as nobody who
    could choose them needs a collision to be believed. Kinds of processors and numbers of threads
    count too: sums are taken in another order.

    Args:
        model: as one stage holds it; all of its files are read.
        device: the torch device it computes on.
        settings: what else the stage was told that decides bits.

    Returns:
        64 hexadecimal digits.
    """
    told = [
        model.loaded.model.family,
        model.loaded.model.dtype,
        [[each.name, each.dtype] for each in model.loaded.components],
        [[name, _contents(file)] for name, file in sorted(model.files.items())],
        [[name, version(name)] for name in _LIBRARIES],
        _processor(torch.device(device)),
        torch.get_num_threads(),
        [str(each) for each in settings],
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _contents(file: Path) -> str:
    hasher = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability()
