"""A model that needs no files, and parameters it accepts."""

from dataclasses import replace

from services.pictures.input_picture import describe_picture
from triptych.domain.acceleration import NO_CACHE
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters
from triptych.domain.input_image import ImageDescription
from triptych.domain.model import (
    Capabilities,
    GenerationDefaults,
    LoadedModel,
    MediaFormat,
    ModelInfo,
)

MODEL = ModelInfo(
    name="fake",
    family="fakes",
    capabilities=Capabilities(
        max_prompt_characters=100,
        max_prompt_tokens=20,
        size_multiple=16,
        min_side=32,
        max_side=256,
        max_pixels=256 * 256,
        min_steps=2,
        max_steps=20,
        supports_guidance=True,
        min_guidance_scale=1,
        max_guidance_scale=10,
        supports_previews=True,
        defaults=GenerationDefaults(width=64, height=64, steps=3, guidance_scale=1.0),
    ),
    dtype=ElementType.FLOAT32,
)
LOADED = LoadedModel(model=MODEL, components=())


def limited(**change: object) -> LoadedModel:
    """The same model with other limits."""
    capabilities = replace(MODEL.capabilities, **change)
    model = replace(MODEL, capabilities=capabilities)
    return LoadedModel(model=model, components=())


EDITING = limited(min_images=1, max_images=2)
"""Takes a picture or two."""

_PARAMETERS = GenerationParameters(
    model=MODEL.name,
    prompt="a picture",
    negative_prompt=None,
    width=64,
    height=32,
    steps=3,
    guidance_scale=1.0,
    seed=0,
    dtype=ElementType.FLOAT32,
    cache=NO_CACHE,
    media_format=MediaFormat.PNG,
)


def described(*pictures: bytes) -> tuple[ImageDescription, ...]:
    """What the headers of pictures say."""
    return tuple(describe_picture("images", each) for each in pictures)


def parameters(**change: object) -> GenerationParameters:
    """Good ones, but for what is changed."""
    return replace(_PARAMETERS, **change)
