"""Wan's VAE: latents to the frames of a video."""

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKLWan
from diffusers.video_processor import VideoProcessor
from PIL import Image

from services.model_families.wan.spec import LatentGrid, video_options
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.model_ports.stages import Tensors
from services.numerics.latents import normalise, take_latents, unnormalise
from triptych.domain.errors import TriptychError
from triptych.domain.generation import GenerationParameters


class WanVae:
    """Decodes in float32 whatever the model computes in, as its card asks."""

    def __init__(self, vae: AutoencoderKLWan, grid: LatentGrid, device: torch.device) -> None:
        self._vae = vae
        self._grid = grid
        self._device = device
        self._frames = VideoProcessor(vae_scale_factor=grid.pixels)

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The VAE."""
        return {"vae": self._vae}

    @torch.no_grad()
    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        """Decodes `latents` [1, C, T, H, W] from WanDenoiser.finish to 4 * (T - 1) + 1 frames.

        Raises:
            TriptychError: latents of another shape, or a frame that is not finite.
        """
        frames = video_options(parameters).num_frames
        shape = (1, self._vae.config.z_dim, *self._grid.shape(parameters, frames))
        normalised = take_latents(latents, shape).to(self._device, self._vae.dtype)
        video = self._decoded(normalised)
        if not torch.isfinite(video).all():
            raise TriptychError("the VAE's picture is not finite")
        (pictures,) = self._frames.postprocess_video(video, output_type="pil")
        assert isinstance(pictures, list)
        return pictures

    @torch.no_grad()
    def reconstruct(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, C, H / scale, W / scale] of pictures [B, 4, H, W], and what they decode to.

        Of a still video, the second latent frame: the first one is made of a single frame and is
        unlike all others. Their fourth channel is left out.
        """
        frames = 1 + self._grid.frames
        still = pictures[:, :3].unsqueeze(2).expand(-1, -1, frames, -1, -1)
        posterior = self._vae.encode(still.to(self._device, self._vae.dtype)).latent_dist
        latents = normalise(posterior.mode(), self._vae.config)
        return latents[:, :, 1], self._decoded(latents)[:, :, 1:].mean(dim=2)

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        (video,) = self._vae.decode(unnormalise(latents, self._vae.config), return_dict=False)
        assert isinstance(video, torch.Tensor)
        return video


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> WanVae:
    """Loads the VAE from its float32 weights; rounding them first would show.

    Raises:
        ConfigurationError: it cannot be loaded.
    """
    vae = load_module(AutoencoderKLWan, directory, "vae", torch.float32, device)
    return WanVae(vae, LatentGrid.of(directory), device)
