"""How much memory a request takes between its steps, computed without torch.

What one forward needs while it runs comes on top of it, and is given back before the next.
"""

from dataclasses import dataclass
from typing import Final

from services.domain.stages import DenoiseRequest
from services.model_files.directory import ModelDirectory
from services.model_ports.crossings import configured_size

SCHEDULE_BYTES: Final = 64 * 1024
"""Of a request's own scheduler: noise levels, and what it knows of each of 1000 time steps."""

_TRANSFORMER: Final = "transformer/config.json"
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


def inner_width(directory: ModelDirectory) -> int:
    """Values per token between a transformer's blocks.

    Raises:
        ConfigurationError: its configuration does not say.
    """
    heads = configured_size(directory, _TRANSFORMER, "num_attention_heads")
    return heads * configured_size(directory, _TRANSFORMER, "attention_head_dim")


def packed_residency(
    directory: ModelDirectory, request: DenoiseRequest, latents_bytes: int, *, lists: int = 1
) -> Residency:
    """Of a loop over packed latents, with input pictures' after them, a branch at a time.

    Args:
        directory: the model.
        request: whose.
        latents_bytes: of what is drawn.
        lists: of blocks that Cache-DiT counts by themselves.

    Raises:
        ConfigurationError: the transformer's configuration does not say how wide tokens are.
    """
    element, width = request.parameters.dtype.size_bytes, inner_width(directory)
    token_bytes = configured_size(directory, _TRANSFORMER, "in_channels") * element
    drawn = (latents_bytes + pictures_bytes(request)) // token_bytes
    prompt = prompt_tokens(request)
    return Residency(
        state_bytes=state_bytes(request, latents_bytes, drawn + prompt),
        hidden_bytes=drawn * width * element,
        encoder_bytes=prompt * width * element,
        signal_bytes=drawn * width * element,
        forwards=2 if request.parameters.guided else 1,
        lists=lists,
    )
