"""How a model's steps can be spread over ranks, read from its configuration without torch."""

from services.model_files.directory import ModelDirectory
from services.model_ports.crossings import configured_size
from triptych.domain.parallel import ParallelMethod, ParallelSupport


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
