"""Latents that a transformer reads as tokens, two by two of them packed into one."""

from dataclasses import dataclass
from typing import Protocol

import torch
from diffusers import ModelMixin

from services.model_ports.stages import Tensors
from services.numerics.scheduled_state import ScheduledState
from triptych.domain.generation import GenerationParameters


class PackingPipeline(Protocol):
    """What published pipelines of this kind have."""

    vae_scale_factor: int
    transformer: ModelMixin

    def prepare_latents(
        self,
        batch_size: int,
        num_channels_latents: int,
        height: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws packed noise, and lays out the positions of its tokens."""
        ...

    def _unpack_latents(
        self, latents: torch.Tensor, height: int, width: int, vae_scale_factor: int
    ) -> torch.Tensor: ...


@dataclass(slots=True)
class PackedState(ScheduledState):
    """One request inside the loop; latents are packed [1, N, 4C].

    Attributes:
        picture_positions: of the latents' tokens [N, 3], and of input pictures' after them.
        prompt: conditioning of the wanted branch [1, L, D].
        prompt_positions: of the prompt's tokens [L, 3].
        size: width and height in pixels.
    """

    picture_positions: torch.Tensor
    prompt: torch.Tensor
    prompt_positions: torch.Tensor
    size: tuple[int, int]


class PackedLatents:
    """Draws and unpacks as a published pipeline does.

    Args:
        pipeline: with its transformer and no other component.
        scale_factor: pixels per latent, on each side.
        device: where the latents are.
    """

    def __init__(self, pipeline: PackingPipeline, scale_factor: int, device: torch.device) -> None:
        self._pipeline = pipeline
        # Without its VAE the pipeline guesses.
        pipeline.vae_scale_factor = scale_factor
        self._device = device

    def draw(self, parameters: GenerationParameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise [1, N, 4C] and its tokens' positions [N, 3].

        It is drawn on the host, so that a seed means the same on every device.
        """
        transformer = self._pipeline.transformer
        return self._pipeline.prepare_latents(
            1,
            transformer.config.in_channels // 4,
            parameters.height,
            parameters.width,
            transformer.dtype,
            self._device,
            torch.Generator("cpu").manual_seed(parameters.seed),
        )

    def unpack(self, state: PackedState) -> Tensors:
        """`latents` [1, C, H, W], normalised as the transformer sees them."""
        width, height = state.size
        latents = self._pipeline._unpack_latents(  # noqa: SLF001 — imported rather than copied
            state.latents, height, width, self._pipeline.vae_scale_factor
        )
        return {"latents": latents}
