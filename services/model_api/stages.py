"""What a model family offers the three stages. Everything here runs on the stage's own thread.

One instance serves many requests, one call at a time; what belongs to a request lives in its State
alone.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from PIL import Image

from services.domain.generation import GenerationParameters

Tensors = Mapping[str, torch.Tensor]


class EncoderModel(Protocol):
    """Prompts to conditioning."""

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The loaded modules by their names in the model directory."""
        ...

    def encode(self, parameters: GenerationParameters) -> Tensors:
        """The conditioning the same family's denoiser takes, one row per tensor.

        Raises:
            InvalidRequest: the prompt has more tokens than the model reads.
        """
        ...


class DenoiserState(Protocol):
    """One request inside the loop."""

    @property
    def total_steps(self) -> int:
        """Steps from noise to latents."""
        ...

    @property
    def completed_steps(self) -> int:
        """Steps that are done."""
        ...

    @property
    def sigma(self) -> float:
        """The noise level that the next step starts from."""
        ...


class DenoiserModel(Protocol):
    """The denoising loop, one step at a time, so that requests can take turns.

    Interleaved requests give the same bits as each would alone.
    """

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The loaded modules by their names in the model directory."""
        ...

    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> DenoiserState:
        """Draws the noise and lays out the schedule. Keeps no view of `conditioning`."""
        ...

    def step(self, state: DenoiserState) -> None:
        """Advances the request by one step."""
        ...

    def finish(self, state: DenoiserState) -> Tensors:
        """The latents the same family's VAE takes."""
        ...


class VaeModel(Protocol):
    """Latents to pictures."""

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The loaded modules by their names in the model directory."""
        ...

    def decode(self, parameters: GenerationParameters, latents: Tensors) -> Image.Image:
        """The picture; pixels stay in this process until they are encoded."""
        ...
