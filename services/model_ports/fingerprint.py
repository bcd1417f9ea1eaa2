"""What decides the bits that a stage computes, beside what it is asked to."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import xxhash

from services.model_ports.stage_model import StageModel

_LIBRARIES = ("triptych", "torch", "diffusers", "transformers", "tokenizers", "pillow")
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
