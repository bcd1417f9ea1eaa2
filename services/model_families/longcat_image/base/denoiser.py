"""LongCat-Image's denoising loop, one step at a time."""

import torch

from services.model_families.longcat_image.denoising import LongCatDenoiser


class LongCatImageDenoiser(LongCatDenoiser):
    """LongCat's, with a limit to what guidance does."""

    def guide(self, wanted: torch.Tensor, unwanted: torch.Tensor, scale: float) -> torch.Tensor:
        combined = super().guide(wanted, unwanted, scale)
        # A token may become shorter than it is without guidance, never longer.
        wanted_length = torch.norm(wanted, dim=-1, keepdim=True)
        combined_length = torch.norm(combined, dim=-1, keepdim=True)
        guided: torch.Tensor = combined * (wanted_length / (combined_length + 1e-8)).clamp(max=1.0)
        return guided


load = LongCatImageDenoiser.load
