"""LongCat-Image-Edit's denoising loop: LongCat-Image's, with a picture's tokens after the noise.

Shapes: C latent channels; H, W latent sides; N packed tokens of the noise, and as many of the
picture. The batch is always one.
"""

import torch
from diffusers.pipelines.longcat_image.pipeline_longcat_image_edit import prepare_pos_ids
from diffusers.utils.torch_utils import randn_tensor

from services.model_families.longcat_image.configuration import PATCH_SIZE
from services.model_families.longcat_image.denoising import LongCatDenoiser
from services.model_ports.stages import Tensors, image_latents_name
from services.numerics.conditioning import Shape, prompt_shapes
from triptych.domain.generation import GenerationParameters

_PICTURE = image_latents_name(0)
# The first of a token's three positions says what it is of; 0 is the prompt.
_DRAWN_KIND, _PICTURE_KIND = 1, 2


class LongCatImageEditDenoiser(LongCatDenoiser):
    """Guidance is not limited here, as published."""

    def shapes(self, parameters: GenerationParameters) -> dict[str, Shape]:
        # Before the prompt's tokens are those of the picture, as many as its proportions make.
        width = self._transformer.config.joint_attention_dim
        prompts = prompt_shapes(parameters, (1, None, width))
        return {**prompts, _PICTURE: self._latent_shape(parameters)}

    def lay_out(
        self, parameters: GenerationParameters, conditioning: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # Drawn in the type it is computed in: LongCat-Image draws in float32 and rounds.
        noise = randn_tensor(
            self._latent_shape(parameters),
            generator=torch.Generator("cpu").manual_seed(parameters.seed),
            device=self._device,
            dtype=self._transformer.dtype,
        )
        prompt_tokens = conditioning["prompt_embeds"].shape[1]
        positions = [
            self._positions(parameters, kind, prompt_tokens).to(self._device, dtype)
            # As published, the latter's type decides that of both.
            for kind, dtype in ((_DRAWN_KIND, torch.float32), (_PICTURE_KIND, torch.float64))
        ]
        return self._pack(noise), self._pack(conditioning[_PICTURE]), torch.cat(positions)

    def _latent_shape(self, parameters: GenerationParameters) -> tuple[int, int, int, int]:
        channels = self._transformer.config.in_channels // PATCH_SIZE**2
        scale_factor = self._pipeline.vae_scale_factor
        return (1, channels, parameters.height // scale_factor, parameters.width // scale_factor)

    def _positions(
        self, parameters: GenerationParameters, kind: int, prompt_tokens: int
    ) -> torch.Tensor:
        _, _, rows, columns = self._latent_shape(parameters)
        positions = prepare_pos_ids(
            modality_id=kind,
            type="image",
            start=(prompt_tokens, prompt_tokens),
            height=rows // PATCH_SIZE,
            width=columns // PATCH_SIZE,
        )
        assert isinstance(positions, torch.Tensor)
        return positions

    def _pack(self, latents: torch.Tensor) -> torch.Tensor:
        packed = self._pipeline._pack_latents(latents, *latents.shape)  # noqa: SLF001 — imported rather than copied
        assert isinstance(packed, torch.Tensor)
        return packed


load = LongCatImageEditDenoiser.load
