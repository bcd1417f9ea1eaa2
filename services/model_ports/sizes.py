"""How many bytes a request takes between the stages and in the denoiser, told without torch."""

from dataclasses import dataclass
from typing import Final

from services.domain.stages import DenoiseRequest
from triptych.domain.element_type import ElementType
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


def pixels_bytes(parameters: GenerationParameters, channels: int = 3) -> int:
    """Bytes of all that a request draws, at a byte per channel."""
    return parameters.pictures * channels * parameters.width * parameters.height


SCHEDULE_BYTES: Final = 64 * 1024
"""Of a request's own scheduler: noise levels, and what it knows of each of 1000 time steps."""

# Three coordinates of a token, in float64 at most.
_POSITION_BYTES: Final = 3 * 8


@dataclass(frozen=True, slots=True)
class Residency:
    """What the rank of a request keeps, at most.

    Attributes:
        state_bytes: latents, what the solver remembers, what was made of prompt and pictures, and
            the schedule.
        hidden_bytes: of what is drawn, as it is between two blocks.
        encoder_bytes: of the prompt's tokens beside it; 0 where the last block has or gives none.
        signal_bytes: of what TeaCache compares.
        forwards: how many kinds a cache tells apart: branches of guidance of each transformer.
        lists: of blocks that Cache-DiT counts by themselves.
    """

    state_bytes: int
    hidden_bytes: int
    encoder_bytes: int
    signal_bytes: int
    forwards: int
    lists: int = 1


def state_bytes(request: DenoiseRequest, latents_bytes: int, tokens: int) -> int:
    """Of a state that keeps all conditioning, for blocks that read so many tokens."""
    return (
        conditioning_bytes(request)
        + pictures_bytes(request)
        + latents_bytes
        + tokens * _POSITION_BYTES
        + SCHEDULE_BYTES
    )


def conditioning_bytes(request: DenoiseRequest) -> int:
    """Of what the encoder gave."""
    return sum(each.size_bytes for each in request.conditioning.tensors)


def pictures_bytes(request: DenoiseRequest) -> int:
    """Of the latents of all input pictures."""
    return sum(each.size_bytes for ref in request.image_latents for each in ref.tensors)


def prompt_tokens(request: DenoiseRequest, name: str = "prompt_embeds") -> int:
    """Of the longest of the conditioning's tensors whose names end like this, [1, tokens, D]."""
    shapes = [each.shape for each in request.conditioning.tensors if each.name.endswith(name)]
    return max((shape[1] for shape in shapes if len(shape) > 2), default=0)
