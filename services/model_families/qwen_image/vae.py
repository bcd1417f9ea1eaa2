"""The VAEs of the Qwen-Image line: latents to pictures, and pictures to latents."""

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from services.model_families.qwen_image.spec import (
    LAYERS,
    NO_PICTURE,
    ONE_PICTURE,
    PATCH_SIZE,
    PICTURE_FIT,
    SEVERAL_PICTURES,
    picture_fit,
    vae_scale_factor,
)
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.model_ports.encoding import Encoding, image_encoding
from services.model_ports.stages import Tensors
from services.numerics.latents import normalise, picture_of, take_latents, unnormalise
from triptych.domain.errors import ConfigurationError
from triptych.domain.generation import GenerationParameters


class QwenImageVae:
    """A video VAE that is given one frame.

    Args:
        vae: with 3 channels for colours, or 4 with an alpha channel.
        scale_factor: pixels per latent, on each side.
        device: where the VAE is.
    """

    def __init__(
        self, vae: AutoencoderKLQwenImage, scale_factor: int, device: torch.device
    ) -> None:
        self._vae = vae
        self._scale_factor = scale_factor
        self._device = device
        self._images = VaeImageProcessor(vae_scale_factor=scale_factor * PATCH_SIZE)

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The VAE."""
        return {"vae": self._vae}

    @torch.no_grad()
    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        """Decodes `latents` [1, C, 1, height / scale, width / scale] as the denoiser left them.

        Raises:
            TriptychError: latents of another shape, or a picture that is not finite.
        """
        taken = take_latents(latents, self.latent_shape(parameters, frames=1))
        return [picture_of(self.decode_frame(taken))]

    def latent_shape(self, parameters: GenerationParameters, frames: int) -> tuple[int, ...]:
        """The shape of a request's latents."""
        rows, columns = (
            side // self._scale_factor for side in (parameters.height, parameters.width)
        )
        return (1, self._vae.config.z_dim, frames, rows, columns)

    def decode_frame(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels [1, 3 or 4, height, width] from -1 to 1 of latents [1, C, 1, H, W]."""
        normalised = latents.to(self._device, self._vae.dtype)
        (frames,) = self._vae.decode(unnormalise(normalised, self._vae.config), return_dict=False)
        first = frames[:, :, 0]
        assert isinstance(first, torch.Tensor)
        return first

    @torch.no_grad()
    def encode_picture(self, picture: Image.Image, size: tuple[int, int]) -> torch.Tensor:
        """Latents [1, C, 1, H, W] of a picture that is scaled to a width and height first.

        They are the most likely ones: nothing is drawn at random.
        """
        width, height = size
        return self._encoded(self._images.preprocess(picture, height, width))

    @torch.no_grad()
    def reconstruct(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, C, H / scale, W / scale] of pictures [B, 4, H, W], decoded too."""
        latents = self._encoded(pictures[:, : self._vae.config.input_channels])
        return latents.squeeze(2), self.decode_frame(latents)

    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        frames = pixels.unsqueeze(2).to(self._device, self._vae.dtype)
        posterior = self._vae.encode(frames).latent_dist
        return normalise(posterior.mode(), self._vae.config)


class QwenImageEditVae(QwenImageVae):
    """Qwen-Image's, which also encodes."""

    def image_encoding(
        self, parameters: GenerationParameters, index: int, image: Image.Image
    ) -> Encoding:
        """To latents [1, C, 1, H, W] of a picture, scaled to about a megapixel."""
        size = PICTURE_FIT.size(*image.size)
        return image_encoding(index, lambda: self.encode_picture(image.convert("RGB"), size))


_RGBA = 4


class QwenImageLayeredVae(QwenImageVae):
    """Qwen-Image's, with an alpha channel."""

    decodes_batches = True

    def image_encoding(
        self, parameters: GenerationParameters, index: int, image: Image.Image
    ) -> Encoding:
        """To latents [1, C, 1, H, W] of the picture, scaled to the request's resolution."""
        size = picture_fit(parameters).size(*image.size)
        return image_encoding(
            index, lambda: self.encode_picture(image.convert("RGBA"), size), *size
        )

    @torch.no_grad()
    def decode(self, parameters: GenerationParameters, latents: Tensors) -> list[Image.Image]:
        """Decodes `latents` [1, C, layers, height / scale, width / scale], each by itself.

        Raises:
            TriptychError: latents of another shape, or a layer that is not finite.
        """
        shape = self.latent_shape(parameters, frames=parameters.pictures)
        taken = take_latents(latents, shape)
        # As items of a batch: frames of a video would see one another.
        frames = taken.permute(0, 2, 1, 3, 4).reshape(-1, shape[1], 1, *shape[3:])
        return [picture_of(each.unsqueeze(0)) for each in self.decode_frame(frames)]


_VAES = {
    NO_PICTURE: QwenImageVae,
    ONE_PICTURE: QwenImageEditVae,
    SEVERAL_PICTURES: QwenImageEditVae,
    LAYERS: QwenImageLayeredVae,
}


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> QwenImageVae:
    """Loads the VAE.

    Raises:
        ConfigurationError: it cannot be loaded, or has no alpha channel where layers are drawn.
    """
    channels = directory.config("vae").get("input_channels")
    if directory.pipeline_class == LAYERS and channels != _RGBA:
        raise ConfigurationError(
            f"{directory.path / 'vae' / 'config.json'}: input_channels is {channels!r};"
            " layers have 4"
        )
    vae = load_module(AutoencoderKLQwenImage, directory, "vae", dtype, device)
    return _VAES[directory.pipeline_class](vae, vae_scale_factor(directory), device)
