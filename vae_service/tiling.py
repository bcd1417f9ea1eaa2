"""In which pieces a VAE works: tiles of a picture, and pictures of a batch, to need less memory.

Tiles change pixels, because they do not see one another; nothing is changed unless a process is
told to. Both are the library's own.
"""

from typing import Any

from diffusers import AutoencoderKL, AutoencoderKLQwenImage, AutoencoderKLWan

from services.domain.tiling import Tiling
from services.model_ports.stages import BatchDecodingVae, VaeModel
from triptych.domain.errors import ConfigurationError

_SQUARE, _OBLONG = (AutoencoderKL,), (AutoencoderKLQwenImage, AutoencoderKLWan)
# Of the library, for every VAE that it tiles.
_DEFAULT_OVERLAP = 0.25


def set_pieces(vae: VaeModel, tiling: Tiling | None, *, slicing: bool) -> int:
    """What a process that decodes was told.

    Args:
        vae: the model.
        tiling: None to work on pictures whole.
        slicing: whether to decode the pictures of a batch one by one.

    Returns:
        The side of a tile in pixels; 0 without tiling.

    Raises:
        ConfigurationError: the VAE has no tiles, none of this size and overlap, or no batches.
    """
    (module,) = vae.components.values()
    if slicing:
        _slice(vae, module)
    return 0 if tiling is None else _tile(module, tiling)


def _slice(vae: VaeModel, module: Any) -> None:  # noqa: ANN401 - diffusers has no types
    if not isinstance(vae, BatchDecodingVae):
        raise ConfigurationError(
            "slicing: is true; this model's VAE decodes one picture at a time, leave it out"
        )
    module.enable_slicing()


def _tile(module: Any, tiling: Tiling) -> int:  # noqa: ANN401 - as above
    if isinstance(module, _SQUARE):
        own, scale = module.tile_sample_min_size, 2 ** (len(module.config.block_out_channels) - 1)
    elif isinstance(module, _OBLONG):
        own, scale = module.tile_sample_min_height, module.spatial_compression_ratio
    else:
        raise ConfigurationError(
            f"tiling: is true; {type(module).__name__} has no tiles, leave it out"
        )
    overlap = _DEFAULT_OVERLAP if tiling.overlap is None else tiling.overlap
    size = own if tiling.size is None else tiling.size
    _check(size, overlap, scale)
    module.enable_tiling()
    if isinstance(module, _SQUARE):
        # This one's method takes no sizes.
        module.tile_sample_min_size, module.tile_latent_min_size = size, size // scale
        module.tile_overlap_factor = overlap
    else:
        stride = size - int(size * overlap)
        module.enable_tiling(size, size, stride, stride)
    return int(size)


def _check(size: object, overlap: float, scale: int) -> None:
    """Sides and overlaps that are no whole numbers of latents would leave gaps between tiles."""
    multiple = scale * overlap.as_integer_ratio()[1]
    if not isinstance(size, int) or size % multiple:
        raise ConfigurationError(
            f"tile_size: is {size}; with an overlap of {overlap:g} of a tile, allowed are"
            f" multiples of {multiple} pixels"
        )
