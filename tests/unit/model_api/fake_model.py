"""A model that needs no files, and parameters it accepts."""

from services.domain.acceleration import CacheMethod
from services.domain.element_type import ElementType
from services.domain.generation import GenerationParameters
from services.domain.model import Capabilities, GenerationDefaults, LoadedModel, MediaFormat, Model

MODEL = Model(
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
        defaults=GenerationDefaults(width=64, height=64, steps=3, guidance_scale=1.0),
    ),
    dtype=ElementType.FLOAT32,
)
LOADED = LoadedModel(model=MODEL, components=())

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
    cache=CacheMethod.NONE,
    media_format=MediaFormat.PNG,
)


def parameters(**change: object) -> GenerationParameters:
    """Good ones, but for what is changed."""
    return _PARAMETERS.model_copy(update=change)
