"""What families say that draw with a transformer from embedded prompts: mostly numbers."""

from collections.abc import Iterator
from dataclasses import dataclass

from services.domain.stages import DenoiseRequest
from services.model_files.configuration import (
    TRANSFORMER_CONFIG,
    VAE_CONFIG,
    configured_size,
    image_scale_factor,
    inner_width,
)
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import (
    PictureLimits,
    cache_support,
    parallel_support,
    picture_limits,
)
from services.model_ports.sizes import (
    Crossings,
    LatentSpace,
    Residency,
    pictures_bytes,
    pixels_bytes,
    prompt_bytes,
    prompt_tokens,
    state_bytes,
)
from services.model_ports.spec import FamilySpec
from triptych.domain.element_type import ElementType
from triptych.domain.family_options import OptionLimits
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit
from triptych.domain.model import Capabilities, GenerationDefaults, MediaFormat


@dataclass(frozen=True, kw_only=True)
class PictureSpec(FamilySpec):
    """A family as values. What is more than a value, a family overrides as a method.

    Entries are of the transformer's configuration, unless they are said to be of another.

    Attributes:
        prompt_tokens: that the model reads of a prompt, at most.
        defaults: as published.
        layer_counts: entries: how many blocks each list has.
        tea_cache_coefficients: the model's own; None where none are known.
        joined_lists: whether Cache-DiT counts all lists of blocks as one.
        heads: entry: how many attention heads a block has.
        prompt_width: entry: values per token of an embedded prompt.
        pooled_width: entry: values of a prompt's summary; None where the model reads none.
        latent_channels: entry of the VAE's configuration: values per latent.
        latents_dtype: of what is drawn; None for the type that the model computes in.
        patch_size: latents per token, on each side.
        picture_channels: of what is drawn.
        images: the fewest and the most input images.
    """

    prompt_tokens: int
    defaults: GenerationDefaults
    layer_counts: tuple[str, ...] = ("num_layers",)
    tea_cache_coefficients: tuple[float, ...] | None = None
    joined_lists: bool = False
    heads: str = "num_attention_heads"
    prompt_width: str = "joint_attention_dim"
    pooled_width: str | None = None
    latent_channels: str = "latent_channels"
    latents_dtype: ElementType | None = None
    patch_size: int = 2
    picture_channels: int = 3
    min_steps: int = 1
    supports_guidance: bool = True
    guidance_field: str = "guidance_scale"
    guidance_off_scale: float = 1.0
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 20.0
    images: tuple[int, int] = (0, 0)
    image_fit: ImageFit | None = None
    options: tuple[OptionLimits, ...] = ()
    media_formats: tuple[MediaFormat, ...] = (MediaFormat.PNG, MediaFormat.JPEG, MediaFormat.WEBP)

    def scale_factor(self, directory: ModelDirectory) -> int:
        """Pixels per latent, on each side."""
        return image_scale_factor(directory)

    def limits(self, directory: ModelDirectory) -> PictureLimits:
        """The limits of a picture's size."""
        return picture_limits(self.scale_factor(directory) * self.patch_size)

    def capabilities(self, directory: ModelDirectory) -> Capabilities:
        """What a model accepts."""
        min_images, max_images = self.images
        return Capabilities(
            **self.limits(directory),
            max_prompt_tokens=self.prompt_tokens,
            min_steps=self.min_steps,
            supports_guidance=self.supports_guidance,
            guidance_field=self.guidance_field,
            guidance_off_scale=self.guidance_off_scale,
            min_guidance_scale=self.min_guidance_scale,
            max_guidance_scale=self.max_guidance_scale,
            supports_previews=True,
            min_images=min_images,
            max_images=max_images,
            image_fit=self.image_fit,
            options=self.options,
            media_formats=self.media_formats,
            cache_support=cache_support(
                directory, self.layer_counts, self.tea_cache_coefficients, joined=self.joined_lists
            ),
            supports_step_batching=True,
            parallel_support=parallel_support(directory, self.heads),
            defaults=directory.defaults(self.defaults),
        )

    def conditioning_tokens(
        self, directory: ModelDirectory, parameters: GenerationParameters
    ) -> int:
        """Tokens of an embedded prompt, at most, with those of pictures that it is read with."""
        return self.prompt_tokens

    def latents_bytes(self, directory: ModelDirectory, parameters: GenerationParameters) -> int:
        """Of what is drawn."""
        return self._space(directory).size_bytes(
            parameters.width,
            parameters.height,
            self.latents_dtype or parameters.dtype,
            pictures=parameters.pictures,
        )

    def crossings(self, directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
        """What crosses between the stages for a request."""
        width, pooled = (
            configured_size(directory, TRANSFORMER_CONFIG, entry) if entry else 0
            for entry in (self.prompt_width, self.pooled_width)
        )
        tokens = self.conditioning_tokens(directory, parameters)
        sizes = list(self._encoded_sizes(parameters))
        space = self._space(directory) if sizes else None
        return Crossings(
            conditioning_bytes=prompt_bytes(parameters, tokens, width, pooled),
            image_latents_bytes=sum(
                space.size_bytes(*size, parameters.dtype) for size in sizes if space is not None
            ),
            latents_bytes=self.latents_bytes(directory, parameters),
            pixels_bytes=pixels_bytes(parameters, channels=self.picture_channels),
        )

    def residency(self, directory: ModelDirectory, request: DenoiseRequest) -> Residency:
        """What a rank keeps of a request: by default of a loop over packed latents.

        Input pictures' tokens come after those that are drawn, and forwards are a branch each.
        """
        return self.packed_residency(
            directory, request, self.latents_bytes(directory, request.parameters)
        )

    def packed_residency(
        self, directory: ModelDirectory, request: DenoiseRequest, latents_bytes: int
    ) -> Residency:
        """See residency; of a loop over so many bytes of latents."""
        element, width = request.parameters.dtype.size_bytes, inner_width(directory)
        token_bytes = configured_size(directory, TRANSFORMER_CONFIG, "in_channels") * element
        drawn = (latents_bytes + pictures_bytes(request)) // token_bytes
        prompt = prompt_tokens(request)
        return Residency(
            state_bytes=state_bytes(request, latents_bytes, drawn + prompt),
            hidden_bytes=drawn * width * element,
            encoder_bytes=prompt * width * element,
            signal_bytes=drawn * width * element,
            forwards=2 if request.parameters.guided else 1,
            lists=1 if self.joined_lists else len(self.layer_counts),
        )

    def _space(self, directory: ModelDirectory) -> LatentSpace:
        channels = configured_size(directory, VAE_CONFIG, self.latent_channels)
        return LatentSpace(channels, self.scale_factor(directory))

    def _encoded_sizes(self, parameters: GenerationParameters) -> Iterator[tuple[int, int]]:
        """The sizes that input images are encoded in: theirs, or that which follows from them."""
        for image in parameters.images:
            if self.image_fit is not None and self.image_fit.overridable:
                yield self.image_fit.size(image.width, image.height)
            else:
                yield parameters.width, parameters.height
