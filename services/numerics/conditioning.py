"""What the encoder hands to the denoiser, checked where it arrives."""

from collections.abc import Mapping
from typing import Final

import torch

from services.model_ports.forwards import CONDITIONAL, UNCONDITIONAL
from services.model_ports.stages import Tensors
from triptych.domain.errors import InvalidRequest
from triptych.domain.generation import GenerationParameters

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None is however many tokens there are, at least one."""


_PREFIXES: Final = {CONDITIONAL: "", UNCONDITIONAL: "negative_"}


def prompt_shapes(
    parameters: GenerationParameters, shape: Shape, pooled: Shape | None = None
) -> dict[str, Shape]:
    """What the tensors of a request's prompts are called, with their shapes.

    Args:
        parameters: effective values.
        shape: of an embedded prompt.
        pooled: of its summary; None where a model reads none.
    """
    shapes = {"prompt_embeds": shape}
    if pooled is not None:
        shapes["pooled_prompt_embeds"] = pooled
    prefixes = list(_PREFIXES.values())[: 2 if parameters.guided else 1]
    return {prefix + name: size for prefix in prefixes for name, size in shapes.items()}


def by_branch(conditioning: Tensors, name: str = "prompt_embeds") -> dict[str, torch.Tensor]:
    """What each guidance branch reads, by its name."""
    return {
        branch: conditioning[prefix + name]
        for branch, prefix in _PREFIXES.items()
        if prefix + name in conditioning
    }


def take_conditioning(
    conditioning: Tensors,
    expected: Mapping[str, Shape],
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """Copies the conditioning to the device, if it is what a request needs.

    Args:
        conditioning: what came; it may be gone afterwards.
        expected: the names of all tensors there must be, with their shapes.
        dtype: the type the model computes in.
        device: where it computes.

    Raises:
        InvalidRequest: a tensor is missing, unknown, or of another shape or type.
    """
    if conditioning.keys() != expected.keys():
        raise InvalidRequest.of(
            "conditioning",
            f"holds {', '.join(sorted(conditioning))};"
            f" this request needs {', '.join(sorted(expected))}",
        )
    for name, tensor in conditioning.items():
        if not _fits(tensor, expected[name]):
            sizes = ", ".join("tokens" if size is None else str(size) for size in expected[name])
            raise InvalidRequest.of(
                "conditioning",
                f"{name} has shape {tuple(tensor.shape)}; this model reads ({sizes})",
            )
        if tensor.dtype != dtype:
            raise InvalidRequest.of(
                "conditioning", f"{name} is {tensor.dtype}; this model computes in {dtype}"
            )
    return {name: tensor.to(device, copy=True) for name, tensor in conditioning.items()}


def _fits(tensor: torch.Tensor, shape: Shape) -> bool:
    return tensor.ndim == len(shape) and all(
        found > 0 if size is None else found == size
        for found, size in zip(tensor.shape, shape, strict=True)
    )
