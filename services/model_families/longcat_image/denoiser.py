"""LongCat's denoising loops, one step at a time; -Edit's has a picture's tokens after the noise.

Shapes: C latent channels; H, W latent sides; N packed tokens of the noise, and as many of the
picture. The batch is always one.
"""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
)
from diffusers.pipelines.longcat_image.pipeline_longcat_image_edit import prepare_pos_ids
from diffusers.utils.torch_utils import randn_tensor

from services.model_families.longcat_image.spec import EDIT, PATCH_SIZE, PROMPT_TOKENS
from services.model_files.configuration import image_scale_factor
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.model_ports.stages import Tensors, image_latents_name
from services.numerics.conditioning import Shape, prompt_shapes
from services.numerics.packed_denoiser import GuidedPackedDenoiser
from services.numerics.schedules import load_flow_scheduler
from triptych.domain.generation import GenerationParameters


class LongCatDenoiser(GuidedPackedDenoiser):
    """The published loop, bit for bit, with all that belongs to a request in its state.

    Args:
        transformer: the model.
        scheduler: as loaded.
        scale_factor: pixels per latent, on each side.
        device: where the transformer is.
    """

    def __init__(
        self,
        transformer: LongCatImageTransformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        scale_factor: int,
        device: torch.device,
    ) -> None:
        self._pipeline = LongCatImagePipeline(
            transformer=transformer,
            scheduler=None,
            vae=None,
            text_encoder=None,
            tokenizer=None,
            text_processor=None,
        )
        super().__init__(self._pipeline, scheduler, scale_factor, PROMPT_TOKENS, device)

    def prompt_positions(self, prompt: torch.Tensor) -> torch.Tensor:
        # Encodes nothing: given embeddings, it only lays out the positions of their tokens.
        _, positions = self._pipeline.encode_prompt(prompt="", prompt_embeds=prompt)
        assert isinstance(positions, torch.Tensor)
        return positions


class LongCatImageDenoiser(LongCatDenoiser):
    """LongCat's, with a limit to what guidance does."""

    def guide(self, wanted: torch.Tensor, unwanted: torch.Tensor, scale: float) -> torch.Tensor:
        combined = super().guide(wanted, unwanted, scale)
        # A token may become shorter than it is without guidance, never longer.
        wanted_length = torch.norm(wanted, dim=-1, keepdim=True)
        combined_length = torch.norm(combined, dim=-1, keepdim=True)
        guided: torch.Tensor = combined * (wanted_length / (combined_length + 1e-8)).clamp(max=1.0)
        return guided


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


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> LongCatDenoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    scheduler = load_flow_scheduler(directory)
    transformer = load_module(
        LongCatImageTransformer2DModel, directory, "transformer", dtype, device
    )
    edits = directory.pipeline_class == EDIT
    kind = LongCatImageEditDenoiser if edits else LongCatImageDenoiser
    return kind(transformer, scheduler, image_scale_factor(directory), device)
