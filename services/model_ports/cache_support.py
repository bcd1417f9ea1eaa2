"""What a model can reuse between steps, read from its configuration without torch."""

from typing import Final

from services.model_files.directory import ModelDirectory
from triptych.domain.acceleration import CacheMethod, CacheSupport
from triptych.domain.errors import ConfigurationError

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
