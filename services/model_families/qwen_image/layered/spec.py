"""What Qwen-Image-Layered accepts, read from a directory's configuration."""

from services.domain.stages import DenoiseRequest
from services.model_families.qwen_image.configuration import (
    CLASSES,
    MAX_PROMPT_TOKENS,
    PATCH_SIZE,
    vae_scale_factor,
)
from services.model_files.configuration import configured_size
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import (
    QWEN_IMAGE_COEFFICIENTS,
    cache_support,
    parallel_support,
    picture_limits,
)
from services.model_ports.sizes import (
    Crossings,
    LatentSpace,
    Residency,
    packed_residency,
    pixels_bytes,
    prompt_bytes,
)
from services.model_ports.spec import FamilySpec
from triptych.domain.errors import TriptychError
from triptych.domain.family_options import LayeredOptions, OptionKind, OptionLimits, switch
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import Capabilities, GenerationDefaults, MediaFormat, Stage

_RESOLUTION = 640
_DEFAULTS = GenerationDefaults(width=_RESOLUTION, height=_RESOLUTION, steps=50, guidance_scale=4.0)
_OPTIONS = (
    OptionLimits(
        field="layered.layers",
        kind=OptionKind.INTEGER,
        minimum=1,
        maximum=10,
        step=1,
        default=4,
    ),
    # The two that the published pipeline knows.
    OptionLimits(
        field="layered.resolution",
        kind=OptionKind.INTEGER,
        minimum=_RESOLUTION,
        maximum=1024,
        step=1024 - _RESOLUTION,
        default=_RESOLUTION,
    ),
    switch("layered.caption_image", default=False),
)


def picture_fit(parameters: GenerationParameters) -> ImageFit:
    """The size that the picture is scaled to and the layers are drawn in."""
    match parameters.options:
        case LayeredOptions(resolution=int(resolution)):
            return ImageFit(area=resolution**2, multiple=32)
    raise TriptychError(f"options: are {parameters.options!r}, not those of a layered model")


def layers(parameters: GenerationParameters) -> int:
    """How many layers a request asks for."""
    match parameters.options:
        case LayeredOptions(layers=int(count)):
            return count
    raise TriptychError(f"options: are {parameters.options!r}, not those of a layered model")


def _capabilities(directory: ModelDirectory) -> Capabilities:
    return Capabilities(
        **picture_limits(vae_scale_factor(directory) * PATCH_SIZE),
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        # One step divides zero by zero: the schedule is stretched to end at shift_terminal.
        min_steps=2,
        supports_guidance=True,
        min_guidance_scale=1.0,
        max_guidance_scale=20.0,
        supports_previews=True,
        min_images=1,
        max_images=1,
        # The area is the option's.
        image_fit=ImageFit(area=_RESOLUTION**2, multiple=32, overridable=False),
        options=_OPTIONS,
        # Layers do not fit into one PNG.
        media_formats=(MediaFormat.PNG_ARCHIVE,),
        cache_support=cache_support(directory, ("num_layers",), QWEN_IMAGE_COEFFICIENTS),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "num_attention_heads"),
        defaults=directory.defaults(_DEFAULTS),
    )


def _crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    space = LatentSpace(
        configured_size(directory, "vae/config.json", "z_dim"), vae_scale_factor(directory)
    )
    width = configured_size(directory, "transformer/config.json", "joint_attention_dim")
    count = layers(parameters)
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, MAX_PROMPT_TOKENS, width),
        image_latents_bytes=space.size_bytes(parameters.width, parameters.height, parameters.dtype),
        latents_bytes=space.size_bytes(
            parameters.width, parameters.height, parameters.dtype, pictures=count
        ),
        pixels_bytes=pixels_bytes(parameters, pictures=count, channels=4),
    )


def _residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    count = layers(request.parameters)
    latents_bytes = _crossings(directory, request.parameters).latents_bytes
    # With the layers their composite is drawn.
    return packed_residency(directory, request, latents_bytes // count * (count + 1))


SPEC = FamilySpec(
    name="qwen-image-layered",
    pipeline_classes=frozenset({"QwenImageLayeredPipeline"}),
    classes={**CLASSES, "processor": "Qwen2VLProcessor"},
    capabilities=_capabilities,
    crossings=_crossings,
    residency=_residency,
    configs={
        Stage.ENCODER: ("processor", "tokenizer", "transformer", "vae"),
        Stage.DENOISER: ("scheduler", "vae"),
        Stage.VAE: ("transformer",),
    },
)
