"""Ovis-Image's denoising loop, one step at a time."""

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    OvisImagePipeline,
    OvisImageTransformer2DModel,
)

from services.model_families.ovis_image.spec import PROMPT_TOKENS
from services.model_files.configuration import image_scale_factor
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.numerics.packed_denoiser import GuidedPackedDenoiser
from services.numerics.schedules import load_flow_scheduler


class OvisImageDenoiser(GuidedPackedDenoiser):
    """The published loop, bit for bit, with all that belongs to a request in its state."""

    def __init__(
        self,
        transformer: OvisImageTransformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        scale_factor: int,
        device: torch.device,
    ) -> None:
        self._pipeline = OvisImagePipeline(
            transformer=transformer, scheduler=None, vae=None, text_encoder=None, tokenizer=None
        )
        super().__init__(self._pipeline, scheduler, scale_factor, PROMPT_TOKENS, device)

    def prompt_positions(self, prompt: torch.Tensor) -> torch.Tensor:
        # Encodes nothing: given embeddings, it only lays out the positions of their tokens.
        _, _, positions, _ = self._pipeline.encode_prompt(
            prompt=None,
            prompt_embeds=prompt,
            do_classifier_free_guidance=False,
            device=prompt.device,
        )
        assert isinstance(positions, torch.Tensor)
        return positions


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> OvisImageDenoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    scheduler = load_flow_scheduler(directory)
    transformer = load_module(OvisImageTransformer2DModel, directory, "transformer", dtype, device)
    return OvisImageDenoiser(transformer, scheduler, image_scale_factor(directory), device)
