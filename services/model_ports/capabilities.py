"""What families read of a model's capabilities from its configuration, without torch."""

from typing import Final, TypedDict

from services.model_files.configuration import configured_size
from services.model_files.directory import ModelDirectory
from triptych.domain.acceleration import CacheMethod, CacheSupport
from triptych.domain.errors import ConfigurationError
from triptych.domain.parallel import ParallelMethod, ParallelSupport


class PictureLimits(TypedDict):
    """Fields of Capabilities, in pixels, steps and characters."""

    max_prompt_characters: int
    size_multiple: int
    min_side: int
    max_side: int
    max_pixels: int
    max_steps: int


def picture_limits(size_multiple: int) -> PictureLimits:
    """The limits for a model whose sides are multiples of so many pixels."""
    return {
        "max_prompt_characters": 4096,
        "size_multiple": size_multiple,
        "min_side": 2 * size_multiple,
        "max_side": 4096,
        "max_pixels": 2048 * 2048,
        "max_steps": 200,
    }


# vLLM-Omni's table (0.30.0), which names the sources: ComfyUI-TeaCache for Qwen-Image, the paper
# for FLUX, its own estimator for LongCat-Image and BAGEL.
QWEN_IMAGE_COEFFICIENTS: Final = (-4.5e2, 2.8e2, -4.5e1, 3.2, -2e-2)
FLUX_COEFFICIENTS: Final = (4.98651651e2, -2.83781631e2, 5.58554382e1, -3.82021401, 2.64230861e-1)
BAGEL_COEFFICIENTS: Final = (1.33313129e6, -1.68644226e5, 7.95050740e3, -1.63747873e2, 1.26352397)
LONGCAT_COEFFICIENTS: Final = (652.5980, -424.1615, 84.5526, -4.5923, 0.1694)


def cache_support(
    directory: ModelDirectory,
    layer_counts: tuple[str, ...],
    tea_cache_coefficients: tuple[float, ...] | None,
    *,
    joined: bool = False,
) -> CacheSupport:
    """What a model with stock blocks can reuse.

    Args:
        directory: the model.
        layer_counts: entries of the transformer's configuration: blocks in each of its lists.
        tea_cache_coefficients: the model's own; None where none are known.
        joined: whether Cache-DiT counts all lists as one.

    Raises:
        ConfigurationError: the configuration does not say how many blocks there are.
    """
    config = directory.config("transformer")
    blocks = []
    for entry in layer_counts:
        match config.get(entry):
            case int(count) if count > 0:
                blocks.append(count)
            case other:
                raise ConfigurationError(
                    f"{directory.path / 'transformer' / 'config.json'}: {entry} is {other!r},"
                    " not a number of blocks"
                )
    return CacheSupport(
        methods=(CacheMethod.NONE, CacheMethod.TEA_CACHE, CacheMethod.CACHE_DIT),
        blocks=(sum(blocks),) if joined else tuple(blocks),
        tea_cache_coefficients=tea_cache_coefficients,
    )


def parallel_support(
    directory: ModelDirectory,
    heads: str,
    *,
    guidance_branches: int = 2,
    config: str = "transformer/config.json",
) -> ParallelSupport:
    """What a model supports whose family says how its blocks' tokens are shared out.

    Args:
        directory: the model.
        heads: entry of the configuration: attention heads; where keys have fewer, those.
        guidance_branches: that a step has at most; with more than one they can run on several
            ranks.
        config: whose configuration it is.

    Raises:
        ConfigurationError: the configuration does not say how many heads there are.
    """
    methods = [ParallelMethod.ULYSSES, ParallelMethod.RING]
    if guidance_branches > 1:
        methods.append(ParallelMethod.CFG)
    return ParallelSupport(
        methods=tuple(methods),
        attention_heads=configured_size(directory, config, heads),
        guidance_branches=guidance_branches,
    )
