"""What LongCat-Image's denoising loop and LongCat-Image-Edit's have in common."""

from typing import Self

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    LongCatImagePipeline,
    LongCatImageTransformer2DModel,
)

from services.model_families.longcat_image.configuration import PROMPT_TOKENS
from services.model_files.configuration import image_scale_factor
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.numerics.packed_denoiser import GuidedPackedDenoiser
from services.numerics.schedules import load_flow_scheduler


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

    @classmethod
    def load(cls, directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> Self:
        """Loads transformer and scheduler.

        Raises:
            ConfigurationError: they cannot be loaded, or need what this loop does not do.
        """
        scheduler = load_flow_scheduler(directory)
        transformer = load_module(
            LongCatImageTransformer2DModel, directory, "transformer", dtype, device
        )
        return cls(transformer, scheduler, image_scale_factor(directory), device)

    def prompt_positions(self, prompt: torch.Tensor) -> torch.Tensor:
        # Encodes nothing: given embeddings, it only lays out the positions of their tokens.
        _, positions = self._pipeline.encode_prompt(prompt="", prompt_embeds=prompt)
        assert isinstance(positions, torch.Tensor)
        return positions
