"""How many bytes cross between the stages for one request, computed without torch."""

from dataclasses import dataclass
from typing import Self

from services.model_files.directory import ModelDirectory
from services.model_files.vae_config import image_scale_factor
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError
from triptych.domain.generation import GenerationParameters


@dataclass(frozen=True, slots=True)
class Crossings:
    """The bytes of one request's tensors.

    Attributes:
        conditioning_bytes: encoder to denoiser, at most; so many with the longest prompts.
        image_latents_bytes: VAE to denoiser, of all input images together.
        latents_bytes: denoiser to VAE.
        pixels_bytes: the picture, or all layers or frames, before they are compressed. They never
            cross: the VAE's stage compresses them where they are.
    """

    conditioning_bytes: int
    image_latents_bytes: int
    latents_bytes: int
    pixels_bytes: int


@dataclass(frozen=True, slots=True)
class LatentSpace:
    """What a VAE makes of pictures.

    Attributes:
        channels: values per latent.
        scale_factor: pixels per latent, on each side.
    """

    channels: int
    scale_factor: int

    @classmethod
    def of_image_vae(cls, directory: ModelDirectory) -> Self:
        """That of an AutoencoderKL.

        Raises:
            ConfigurationError: its configuration does not say.
        """
        channels = configured_size(directory, "vae/config.json", "latent_channels")
        return cls(channels, image_scale_factor(directory))

    def size_bytes(self, width: int, height: int, dtype: ElementType, pictures: int = 1) -> int:
        """Bytes of the latents of one or more pictures of a width and a height in pixels."""
        rows, columns = height // self.scale_factor, width // self.scale_factor
        return pictures * self.channels * rows * columns * dtype.size_bytes


def prompt_bytes(parameters: GenerationParameters, tokens: int, width: int, pooled: int = 0) -> int:
    """Bytes of the embedded prompt and, when guided, of the negative prompt.

    Args:
        parameters: effective values.
        tokens: of each of the two.
        width: values per token.
        pooled: values that sum up a prompt, where a model reads such.
    """
    branches = 2 if parameters.guided else 1
    return branches * (tokens * width + pooled) * parameters.dtype.size_bytes


def pixels_bytes(parameters: GenerationParameters, pictures: int = 1, channels: int = 3) -> int:
    """Bytes of what a request draws, at a byte per channel."""
    return pictures * channels * parameters.width * parameters.height


def configured_size(directory: ModelDirectory, file: str, key: str) -> int:
    """A positive whole number that a configuration names.

    Args:
        directory: of the model.
        file: inside it, for example "transformer/config.json".
        key: of the number.

    Raises:
        ConfigurationError: the file is missing or unreadable, or the key is not such a number.
    """
    value = directory.json(file).get(key)
    if type(value) is not int or value < 1:
        raise ConfigurationError(
            f"{directory.path / file}: {key} is {value!r}, not a positive whole number"
        )
    return value
