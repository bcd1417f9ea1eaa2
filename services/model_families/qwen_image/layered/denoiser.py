"""Qwen-Image-Layered's denoising loop: Qwen-Image's, over all layers at once.

The first frame that is drawn is the composite of the layers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    QwenImageLayeredPipeline,
    QwenImageTransformer2DModel,
)

from services.model_families.qwen_image.configuration import vae_scale_factor
from services.model_families.qwen_image.denoising import QwenImageDenoiser, QwenImageState
from services.model_families.qwen_image.layered.spec import layers, picture_fit
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.model_ports.stages import Tensors
from services.numerics.schedules import Schedule, load_flow_scheduler
from triptych.domain.generation import GenerationParameters

# Tokens of a picture of 256 x 256 pixels, for which the schedule is not shifted.
_UNSHIFTED_TOKENS = 256


class QwenImageLayeredDenoiser(QwenImageDenoiser):
    """The published loop, bit for bit, with all that belongs to a request in its state."""

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        scale_factor: int,
        device: torch.device,
    ) -> None:
        super().__init__(transformer, scheduler, scale_factor, device)
        self._layered = QwenImageLayeredPipeline(
            transformer=transformer,
            scheduler=None,
            vae=None,
            text_encoder=None,
            tokenizer=None,
            processor=None,
        )
        # Without its VAE the pipeline guesses.
        self._layered.vae_scale_factor = scale_factor

    def image_sizes(self, parameters: GenerationParameters) -> list[tuple[int, int]]:
        fit = picture_fit(parameters)
        return [fit.size(each.width, each.height) for each in parameters.images]

    def frames(self, parameters: GenerationParameters) -> int:
        return layers(parameters) + 1

    def draw(self, parameters: GenerationParameters) -> torch.Tensor:
        noise, _ = self._layered.prepare_latents(
            image=None, layers=layers(parameters), **self.noise(parameters)
        )
        assert isinstance(noise, torch.Tensor)
        return noise

    def schedule(
        self,
        parameters: GenerationParameters,
        latents: torch.Tensor,
        images: torch.Tensor | None,
    ) -> Schedule:
        """Even noise levels from 1 down to 0, shifted by the tokens of the input picture."""
        assert images is not None
        return Schedule(
            self._scheduler,
            parameters.steps,
            self._device,
            sigmas=np.linspace(1.0, 0, parameters.steps + 1)[:-1],
            mu=(images.shape[1] / _UNSHIFTED_TOKENS) ** 0.5,
        )

    def guide(self, wanted: torch.Tensor, unwanted: torch.Tensor, scale: float) -> torch.Tensor:
        return unwanted + scale * (wanted - unwanted)

    def model_inputs(self) -> Mapping[str, Any]:
        # 0 for pictures with an alpha channel.
        return {"additional_t_cond": torch.zeros(1, dtype=torch.long, device=self._device)}

    @torch.no_grad()
    def finish(self, state: QwenImageState) -> Tensors:
        """Returns `latents` [1, C, layers, H, W], normalised as the transformer sees them."""
        width, height = state.size
        frames = self._layered._unpack_latents(  # noqa: SLF001 — imported rather than copied
            state.latents, height, width, state.frames - 1, self._scale_factor
        )
        # Nobody asked for the composite.
        return {"latents": frames[:, :, 1:].contiguous()}


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> QwenImageLayeredDenoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    directory.refuse("transformer", "guidance_embeds", "guidance is not distilled here")
    scheduler = load_flow_scheduler(directory)
    transformer = load_module(QwenImageTransformer2DModel, directory, "transformer", dtype, device)
    return QwenImageLayeredDenoiser(transformer, scheduler, vae_scale_factor(directory), device)
