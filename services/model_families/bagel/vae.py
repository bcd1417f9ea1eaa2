"""BAGEL's VAE: latents to a picture, and the picture that is to be edited to latents.

It is published in the layout of the autoencoder's authors, without a configuration.
"""

import re
from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from PIL import Image
from safetensors.torch import load_file

from services.model_families.bagel.checkpoint import fill
from services.model_families.bagel.pictures import vae_pixels
from services.model_families.bagel.spec import LATENT_CHANNELS, VAE_SCALE_FACTOR, VAE_WEIGHTS
from services.model_files.directory import ModelDirectory
from services.model_files.modules import reading
from services.model_files.tensor_places import read_headers, refuse_unplaced
from services.model_ports.encoding import Encoding, image_encoding
from services.numerics.image_vae import ImageVae
from triptych.domain.errors import ConfigurationError
from triptych.domain.generation import GenerationParameters

_LEVELS = 4
_BLOCK = re.compile(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv2\.weight")


class BagelVae(ImageVae):
    """Also samples the latents of input images."""

    def image_encoding(
        self, parameters: GenerationParameters, index: int, image: Image.Image
    ) -> Encoding:
        """To latents [1, C, height / 8, width / 8] of one image, normalised for the denoiser.

        They are drawn from what the VAE finds likely. The request's seed decides them: of its
        stream of random numbers they take the beginning, and the denoiser's noise what follows.

        Args:
            parameters: effective values; the image is encoded in a size of its own, not theirs.
            index: which of parameters.images it is; there is one at most.
            image: the picture, the right way up, in the mode its file has.
        """
        seed = parameters.seed
        return image_encoding(index, lambda: self._sampled(image, seed), seed)

    def _sampled(self, image: Image.Image, seed: int) -> torch.Tensor:
        pixels = vae_pixels(image).to(self._device, self._vae.dtype)
        posterior = self._vae.encode(pixels).latent_dist
        generator = torch.Generator("cpu").manual_seed(seed)
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        sample = posterior.mean + posterior.std * noise
        config = self._vae.config
        latents: torch.Tensor = config.scaling_factor * (sample - config.shift_factor)
        return latents


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> BagelVae:
    """Loads the VAE.

    Raises:
        ConfigurationError: it cannot be loaded, or has other levels than the published one.
    """
    file = directory.path / VAE_WEIGHTS
    with reading(file):
        published = load_file(file)
    widths, blocks = _sizes(published)
    if len(widths) != _LEVELS:
        raise ConfigurationError(
            f"{file}: has {len(widths)} levels; served are VAEs with {_LEVELS}"
        )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * _LEVELS,
        up_block_types=("UpDecoderBlock2D",) * _LEVELS,
        block_out_channels=widths,
        layers_per_block=blocks,
        latent_channels=LATENT_CHANNELS,
        # Only tiles are made by it; FLUX.1 publishes the same autoencoder with this.
        sample_size=1024,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    with reading(file):
        converted = convert_ldm_vae_checkpoint(published, vae.config)
        refuse_unplaced("AutoencoderKL", _left_out(published, converted, vae), read_headers([file]))
    found = {name: tensor.to(dtype) for name, tensor in converted.items()}
    return BagelVae(fill(vae, found, file).to(device), VAE_SCALE_FACTOR, device)


def _left_out(
    published: Mapping[str, torch.Tensor], converted: Mapping[str, torch.Tensor], vae: AutoencoderKL
) -> list[str]:
    """Names of published tensors whose numbers are in no weight of the VAE."""
    wanted = vae.state_dict().keys()
    read = {tensor.data_ptr() for name, tensor in converted.items() if name in wanted}
    return [name for name, tensor in published.items() if tensor.data_ptr() not in read]


def _sizes(published: Mapping[str, torch.Tensor]) -> tuple[tuple[int, ...], int]:
    """Channels of each level, and how many blocks each has."""
    blocks = {
        (int(match[1]), int(match[2])): tensor.shape[0]
        for name, tensor in published.items()
        if (match := _BLOCK.fullmatch(name))
    }
    widths = tuple(width for (_, block), width in sorted(blocks.items()) if block == 0)
    return widths, 1 + max((block for _, block in blocks), default=0)
