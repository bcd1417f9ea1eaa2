"""Writes components as a model directory in the published diffusers layout."""

import hashlib
import json
import math
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

_SEED_BYTES = 7
# Twice the usual size sharpens attention: one word among hundreds of tokens still tells.
_QUERY_OR_KEY = re.compile(r"\.(norm(_added)?_[qk]|[qk]_norm|to_[qk]|[qk]_proj)\.weight$")


def write_directory(
    directory: Path,
    name: str,
    pipeline_class: str,
    components: Mapping[str, Any],
    *,
    published_classes: Mapping[str, str] | None = None,
    unsharpened: Container[str] = (),
    **settings: float,
) -> None:
    """Draws the weights of all components and writes them with their model_index.json.

    Args:
        directory: where to; created if it is not there.
        name: of the model; with a component's own name it seeds that component's weights.
        pipeline_class: `_class_name` of model_index.json.
        components: models, tokenizers, processors and schedulers by subfolder.
        published_classes: by subfolder, the published class name where it is not the Python one.
        unsharpened: components whose attention is not made sharper than usual.
        settings: further entries of model_index.json.
    """
    index: dict[str, Any] = {
        "_class_name": pipeline_class,
        "_diffusers_version": diffusers.__version__,
        **settings,
    }
    for subfolder, component in components.items():
        kind = type(component)
        class_name = (published_classes or {}).get(subfolder, kind.__name__)
        library = "diffusers" if hasattr(diffusers, class_name) else "transformers"
        index[subfolder] = [library, class_name]
        if isinstance(component, nn.Module):
            draw_weights(component, f"{name}/{subfolder}", sharp=subfolder not in unsharpened)
        component.save_pretrained(directory / subfolder)
    text = json.dumps(index, indent=2, sort_keys=True)
    (directory / "model_index.json").write_text(f"{text}\n", encoding="utf-8")


@torch.no_grad()
def draw_weights(module: nn.Module, seed: str, *, sharp: bool = True) -> None:
    """Draws every parameter so that signals keep their size from layer to layer.

    Libraries start near the identity: small weights, closed gates, zero tokens. A comparison of
    outputs would then not notice most mistakes.

    Args:
        module: whose float32 parameters are overwritten.
        seed: the same text gives the same values in every process.
        sharp: whether weights that make queries and keys are twice as large.
    """
    digest = hashlib.sha256(seed.encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:_SEED_BYTES], "big"))
    for path, parameter in module.named_parameters():
        owner = module.get_submodule(path.rpartition(".")[0])
        noise = torch.randn(parameter.shape, generator=generator)
        size = 2.0 if sharp and _QUERY_OR_KEY.search(path) else 1.0
        parameter.copy_(_scaled(owner, path, noise, size))


def _scaled(owner: nn.Module, path: str, noise: torch.Tensor, size: float) -> torch.Tensor:
    if path.endswith(".bias"):
        return 0.1 * noise
    if path.endswith(".gamma") or (path.endswith(".weight") and noise.ndim == 1):
        return size + 0.2 * noise
    if isinstance(owner, nn.Embedding):
        return noise
    inputs = noise.numel() // noise.shape[0]
    return noise * (size / math.sqrt(inputs))
