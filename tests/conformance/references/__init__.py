"""What the published pipelines draw, one module per model, each with a `REFERENCE`."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Capabilities


@dataclass(frozen=True)
class Drawn:
    """What came out.

    Attributes:
        latents: as the denoiser hands them to the VAE: unpacked, and not yet unnormalised.
        pixels: of the picture, row by row; of layers or frames, one after the other.
    """

    latents: torch.Tensor
    pixels: bytes


@dataclass(frozen=True)
class Reference:
    """A published pipeline that the three stages are compared with.

    Attributes:
        model: the name of a checkpoint in tests/checkpoints.
        pipeline: the published class.
        cases: fields of requests; both with and without guidance where the model has it. Their
            `images` are a number: how many of the suite's pictures the request carries; or a
            list: which of them.
        draw: draws with a loaded pipeline, without any of the project's code.
        build: writes a model directory that is not one of tests/checkpoints.
        small: fields of a request that takes little work.
    """

    model: str
    pipeline: type[Any]
    cases: Sequence[dict[str, object]]
    draw: Callable[[Any, GenerationParameters], Drawn]
    build: Callable[[Path], object] | None = None
    small: Mapping[str, object] = field(
        default_factory=lambda: {"width": 64, "height": 64, "steps": 2}
    )


def references() -> list[Reference]:
    """Those of every module in this folder."""
    names = sorted(each.name for each in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{name}").REFERENCE for name in names]


def guidance(limits: Capabilities, scale: float) -> dict[str, object]:
    """Fields of a request that a second branch, from a negative prompt, steers so much."""
    group, _, name = limits.guidance_field.rpartition(".")
    return {"options": {"kind": group, name: scale}} if group else {name: scale}


def draw_with_steps(pipeline: Any, **arguments: object) -> tuple[Image.Image, torch.Tensor]:
    """Calls a pipeline; returns its picture, and its latents after the last step as they are."""
    last: dict[str, torch.Tensor] = {}

    def keep(
        _: object, step: int, timestep: object, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        last.update(tensors)
        return tensors

    (picture,) = pipeline(**arguments, callback_on_step_end=keep).images
    return picture, last["latents"]


def draw_packed(pipeline: Any, parameters: GenerationParameters, **arguments: object) -> Drawn:
    """Draws with a pipeline that packs its latents.

    Args:
        pipeline: as published.
        parameters: effective values.
        arguments: those of the pipeline's own that say how the drawing is guided.
    """
    picture, packed = draw_with_steps(
        pipeline,
        prompt=parameters.prompt,
        width=parameters.width,
        height=parameters.height,
        num_inference_steps=parameters.steps,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
        **arguments,
    )
    latents = pipeline._unpack_latents(
        packed, parameters.height, parameters.width, pipeline.vae_scale_factor
    )
    return Drawn(latents, picture.tobytes())
