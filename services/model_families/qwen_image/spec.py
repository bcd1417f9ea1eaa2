"""What the models of the Qwen-Image line accept, read from a directory's configuration."""

from typing import Final

from services.domain.stages import DenoiseRequest
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
from services.numerics.qwen_vision import picture_tokens
from triptych.domain.errors import ConfigurationError, TriptychError
from triptych.domain.family_options import LayeredOptions, OptionKind, OptionLimits, switch
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import Capabilities, GenerationDefaults, MediaFormat, Stage

NO_PICTURE: Final = "QwenImagePipeline"
ONE_PICTURE: Final = "QwenImageEditPipeline"
SEVERAL_PICTURES: Final = "QwenImageEditPlusPipeline"
LAYERS: Final = "QwenImageLayeredPipeline"
"""Pipeline classes, by what a model draws from; LAYERS takes one picture apart."""

PATCH_SIZE = 2
"""Latents per token, on each side."""

MAX_PROMPT_TOKENS = 512
"""What is read of a prompt without pictures, its template's closing tokens included."""

CLASSES = {
    "text_encoder": "Qwen2_5_VLForConditionalGeneration",
    "tokenizer": "Qwen2Tokenizer",
    "transformer": "QwenImageTransformer2DModel",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "vae": "AutoencoderKLQwenImage",
}
"""By subfolder, the class that reads it."""


def vae_scale_factor(directory: ModelDirectory) -> int:
    """Pixels per latent, on each side.

    Raises:
        ConfigurationError: the VAE's configuration does not say.
    """
    downsampling = directory.config("vae").get("temperal_downsample")
    if not isinstance(downsampling, list) or not downsampling:
        raise ConfigurationError(
            f"{directory.path / 'vae' / 'config.json'}: temperal_downsample is {downsampling!r},"
            " not a list with one entry per halving"
        )
    return int(2 ** len(downsampling))


_DEFAULTS = GenerationDefaults(width=1024, height=1024, steps=50, guidance_scale=4.0)


def _base_capabilities(directory: ModelDirectory) -> Capabilities:
    size_multiple = vae_scale_factor(directory) * PATCH_SIZE
    return Capabilities(
        **picture_limits(size_multiple),
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        # One step divides zero by zero: the schedule is stretched to end at shift_terminal.
        min_steps=2,
        supports_guidance=True,
        min_guidance_scale=1.0,
        max_guidance_scale=20.0,
        supports_previews=True,
        cache_support=cache_support(directory, ("num_layers",), QWEN_IMAGE_COEFFICIENTS),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "num_attention_heads"),
        defaults=directory.defaults(_DEFAULTS),
    )


def _base_crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    space = LatentSpace(
        configured_size(directory, "vae/config.json", "z_dim"), vae_scale_factor(directory)
    )
    width = configured_size(directory, "transformer/config.json", "joint_attention_dim")
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, MAX_PROMPT_TOKENS, width),
        image_latents_bytes=0,
        latents_bytes=space.size_bytes(parameters.width, parameters.height, parameters.dtype),
        pixels_bytes=pixels_bytes(parameters),
    )


def _base_residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    latents_bytes = _base_crossings(directory, request.parameters).latents_bytes
    return packed_residency(directory, request, latents_bytes)


_BASE = FamilySpec(
    name="qwen-image",
    pipeline_classes=frozenset({NO_PICTURE}),
    classes=CLASSES,
    capabilities=_base_capabilities,
    crossings=_base_crossings,
    residency=_base_residency,
)


MAX_EDIT_PROMPT_TOKENS = 1024
"""Of a prompt with its template's closing tokens, not counting those of the pictures."""

PICTURE_FIT = ImageFit(area_pixels=1024 * 1024, multiple=32)
"""What the VAE sees of a picture, and what is drawn unless a request says otherwise."""

CONDITION_FITS = {
    ONE_PICTURE: PICTURE_FIT,
    SEVERAL_PICTURES: ImageFit(area_pixels=384 * 384, multiple=32),
}
"""What the text encoder sees of a picture, by pipeline class."""

# Around a picture's tokens, at most: one for each letter of "Picture 1: ", and two markers. Of one
# picture they are part of the template, which is counted with the prompt.
_LABEL_TOKENS = {ONE_PICTURE: 0, SEVERAL_PICTURES: 13}

_MAX_IMAGES = {ONE_PICTURE: 1, SEVERAL_PICTURES: 3}
_DEFAULTS = GenerationDefaults(width=1024, height=1024, steps=50, guidance_scale=4.0)


def _edit_capabilities(directory: ModelDirectory) -> Capabilities:
    return Capabilities(
        **picture_limits(vae_scale_factor(directory) * PATCH_SIZE),
        max_prompt_tokens=MAX_EDIT_PROMPT_TOKENS,
        # One step divides zero by zero: the schedule is stretched to end at shift_terminal.
        min_steps=2,
        supports_guidance=True,
        min_guidance_scale=1.0,
        max_guidance_scale=20.0,
        supports_previews=True,
        min_images=1,
        max_images=_MAX_IMAGES[directory.pipeline_class],
        image_fit=PICTURE_FIT,
        cache_support=cache_support(directory, ("num_layers",), QWEN_IMAGE_COEFFICIENTS),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "num_attention_heads"),
        defaults=directory.defaults(_DEFAULTS),
    )


def _edit_crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    space = LatentSpace(
        configured_size(directory, "vae/config.json", "z_dim"), vae_scale_factor(directory)
    )
    width = configured_size(directory, "transformer/config.json", "joint_attention_dim")
    condition_fit = CONDITION_FITS[directory.pipeline_class]
    tokens = MAX_EDIT_PROMPT_TOKENS
    image_latents = 0
    for image in parameters.images:
        seen = condition_fit.size(image.width, image.height)
        tokens += _LABEL_TOKENS[directory.pipeline_class] + picture_tokens(*seen)
        encoded = PICTURE_FIT.size(image.width, image.height)
        image_latents += space.size_bytes(*encoded, parameters.dtype)
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, tokens, width),
        image_latents_bytes=image_latents,
        latents_bytes=space.size_bytes(parameters.width, parameters.height, parameters.dtype),
        pixels_bytes=pixels_bytes(parameters),
    )


def _edit_residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    latents_bytes = _edit_crossings(directory, request.parameters).latents_bytes
    return packed_residency(directory, request, latents_bytes)


_EDIT = FamilySpec(
    name="qwen-image-edit",
    pipeline_classes=frozenset(_MAX_IMAGES),
    classes={**CLASSES, "processor": "Qwen2VLProcessor"},
    capabilities=_edit_capabilities,
    crossings=_edit_crossings,
    residency=_edit_residency,
    configs={
        Stage.ENCODER: ("processor", "tokenizer", "transformer", "vae"),
        Stage.DENOISER: ("scheduler", "vae"),
        Stage.VAE: ("transformer",),
    },
)


_RESOLUTION = 640
_DEFAULTS_OF_LAYERS = GenerationDefaults(
    width=_RESOLUTION, height=_RESOLUTION, steps=50, guidance_scale=4.0
)
_OPTIONS = (
    OptionLimits(
        name="layered.layers",
        kind=OptionKind.INTEGER,
        minimum=1,
        maximum=10,
        step=1,
        default=4,
    ),
    # The two that the published pipeline knows.
    OptionLimits(
        name="layered.resolution",
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
            return ImageFit(area_pixels=resolution**2, multiple=32)
    raise TriptychError(f"options: are {parameters.options!r}, not those of a layered model")


def layers(parameters: GenerationParameters) -> int:
    """How many layers a request asks for."""
    match parameters.options:
        case LayeredOptions(layers=int(count)):
            return count
    raise TriptychError(f"options: are {parameters.options!r}, not those of a layered model")


def _layered_capabilities(directory: ModelDirectory) -> Capabilities:
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
        image_fit=ImageFit(area_pixels=_RESOLUTION**2, multiple=32, overridable=False),
        options=_OPTIONS,
        # Layers do not fit into one PNG.
        media_formats=(MediaFormat.PNG_ARCHIVE,),
        cache_support=cache_support(directory, ("num_layers",), QWEN_IMAGE_COEFFICIENTS),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "num_attention_heads"),
        defaults=directory.defaults(_DEFAULTS_OF_LAYERS),
    )


def _layered_crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
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


def _layered_residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    count = layers(request.parameters)
    latents_bytes = _layered_crossings(directory, request.parameters).latents_bytes
    # With the layers their composite is drawn.
    return packed_residency(directory, request, latents_bytes // count * (count + 1))


_LAYERED = FamilySpec(
    name="qwen-image-layered",
    pipeline_classes=frozenset({LAYERS}),
    classes={**CLASSES, "processor": "Qwen2VLProcessor"},
    capabilities=_layered_capabilities,
    crossings=_layered_crossings,
    residency=_layered_residency,
    configs={
        Stage.ENCODER: ("processor", "tokenizer", "transformer", "vae"),
        Stage.DENOISER: ("scheduler", "vae"),
        Stage.VAE: ("transformer",),
    },
)


SPECS = (_BASE, _EDIT, _LAYERED)
