"""LongCat-Image's denoising loop, one step at a time."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
)

from services.model_api.directory import ModelDirectory
from services.model_api.guided_packed_denoiser import GuidedPackedDenoiser
from services.model_api.modules import load_module
from services.model_api.schedules import load_flow_scheduler
from services.model_api.vae_config import image_scale_factor
from services.model_families.longcat_image.spec import PROMPT_TOKENS


class LongCatImageDenoiser(GuidedPackedDenoiser):
    """The published loop, bit for bit, with all that belongs to a request in its state."""

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

    def guide(self, wanted: torch.Tensor, unwanted: torch.Tensor, scale: float) -> torch.Tensor:
        combined = unwanted + scale * (wanted - unwanted)
        # A token may become shorter than it is without guidance, never longer.
        wanted_length = torch.norm(wanted, dim=-1, keepdim=True)
        combined_length = torch.norm(combined, dim=-1, keepdim=True)
        guided: torch.Tensor = combined * (wanted_length / (combined_length + 1e-8)).clamp(max=1.0)
        return guided


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> LongCatImageDenoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    scheduler = load_flow_scheduler(directory)
    transformer = load_module(
        LongCatImageTransformer2DModel, directory, "transformer", dtype, device
    )
    return LongCatImageDenoiser(transformer, scheduler, image_scale_factor(directory), device)
