"""What the models of the Qwen-Image line accept."""

from dataclasses import dataclass, replace
from typing import Final

from services.domain.stages import DenoiseRequest
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import QWEN_IMAGE_COEFFICIENTS
from services.model_ports.picture_spec import PictureSpec
from services.model_ports.sizes import Residency
from services.numerics.qwen_vision import picture_tokens
from triptych.domain.errors import ConfigurationError, TriptychError
from triptych.domain.family_options import OptionKind, OptionLimits, switch
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import Capabilities, GenerationDefaults, MediaFormat

NO_PICTURE: Final = "QwenImagePipeline"
ONE_PICTURE: Final = "QwenImageEditPipeline"
SEVERAL_PICTURES: Final = "QwenImageEditPlusPipeline"
LAYERS: Final = "QwenImageLayeredPipeline"
"""Pipeline classes, by what a model draws from; LAYERS takes one picture apart."""

PATCH_SIZE = 2
"""Latents per token, on each side."""

MAX_PROMPT_TOKENS = 512
"""What is read of a prompt without pictures, its template's closing tokens included."""

MAX_EDIT_PROMPT_TOKENS = 1024
"""Of a prompt with its template's closing tokens, not counting those of the pictures."""

PICTURE_FIT = ImageFit(area_pixels=1024 * 1024, multiple=32)
"""What the VAE sees of a picture to edit, and what is drawn unless a request says otherwise."""

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
_RESOLUTION = 640


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


def picture_fit(parameters: GenerationParameters) -> ImageFit:
    """The size that a picture is scaled to which is taken apart, and its layers are drawn in."""
    area = None if parameters.options is None else parameters.options.fitted_area
    if area is None:
        raise TriptychError(f"options: are {parameters.options!r}, not those of a layered model")
    return ImageFit(area_pixels=area, multiple=32)


@dataclass(frozen=True, kw_only=True)
class _QwenImageSpec(PictureSpec):
    """What all have in common."""

    prompt_tokens: int = MAX_PROMPT_TOKENS
    patch_size: int = PATCH_SIZE
    latent_channels: str = "z_dim"
    tea_cache_coefficients: tuple[float, ...] | None = QWEN_IMAGE_COEFFICIENTS
    # One step divides zero by zero: the schedule is stretched to end at shift_terminal.
    min_steps: int = 2
    defaults: GenerationDefaults = _DEFAULTS

    def scale_factor(self, directory: ModelDirectory) -> int:
        return vae_scale_factor(directory)


@dataclass(frozen=True, kw_only=True)
class _EditSpec(_QwenImageSpec):
    """Both kinds of editing models: how many pictures they see is their pipeline's to say."""

    def capabilities(self, directory: ModelDirectory) -> Capabilities:
        several = replace(self, images=(1, _MAX_IMAGES[directory.pipeline_class]))
        return PictureSpec.capabilities(several, directory)

    def conditioning_tokens(
        self, directory: ModelDirectory, parameters: GenerationParameters
    ) -> int:
        kind, tokens = directory.pipeline_class, self.prompt_tokens
        for image in parameters.images:
            seen = CONDITION_FITS[kind].size(image.width, image.height)
            tokens += _LABEL_TOKENS[kind] + picture_tokens(*seen)
        return tokens


@dataclass(frozen=True, kw_only=True)
class _LayeredSpec(_QwenImageSpec):
    """With the layers their composite is drawn."""

    def residency(self, directory: ModelDirectory, request: DenoiseRequest) -> Residency:
        layers = request.parameters.pictures
        latents_bytes = self.latents_bytes(directory, request.parameters) // layers * (layers + 1)
        return self.packed_residency(directory, request, latents_bytes)


_CLASSES = {
    "text_encoder": "Qwen2_5_VLForConditionalGeneration",
    "tokenizer": "Qwen2Tokenizer",
    "transformer": "QwenImageTransformer2DModel",
    "scheduler": "FlowMatchEulerDiscreteScheduler",
    "vae": "AutoencoderKLQwenImage",
}
_CLASSES_WITH_VISION = {"processor": "Qwen2VLProcessor", **_CLASSES}

SPECS = (
    _QwenImageSpec(name="qwen-image", pipeline_classes=frozenset({NO_PICTURE}), classes=_CLASSES),
    _EditSpec(
        name="qwen-image-edit",
        pipeline_classes=frozenset(_MAX_IMAGES),
        classes=_CLASSES_WITH_VISION,
        prompt_tokens=MAX_EDIT_PROMPT_TOKENS,
        image_fit=PICTURE_FIT,
    ),
    _LayeredSpec(
        name="qwen-image-layered",
        pipeline_classes=frozenset({LAYERS}),
        classes=_CLASSES_WITH_VISION,
        images=(1, 1),
        # The area is the option's.
        image_fit=ImageFit(area_pixels=_RESOLUTION**2, multiple=32, overridable=False),
        picture_channels=4,
        # Layers do not fit into one PNG.
        media_formats=(MediaFormat.PNG_ARCHIVE,),
        options=(
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
        ),
        defaults=GenerationDefaults(
            width=_RESOLUTION, height=_RESOLUTION, steps=50, guidance_scale=4.0
        ),
    ),
)
