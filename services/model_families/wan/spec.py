"""What Wan accepts."""

import math
from dataclasses import dataclass, replace
from typing import Self

from services.domain.stages import DenoiseRequest
from services.model_files.configuration import (
    TRANSFORMER_CONFIG,
    VAE_CONFIG,
    configured_size,
    inner_width,
)
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import PictureLimits, picture_limits
from services.model_ports.picture_spec import PictureSpec
from services.model_ports.sizes import Residency, state_bytes
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError, TriptychError
from triptych.domain.family_options import OptionKind, OptionLimits, VideoOptions
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Capabilities, GenerationDefaults, MediaFormat

PROMPT_TOKENS = 512
"""What UMT5 reads of a prompt; shorter ones are padded to it."""

_LOW_NOISE_GUIDANCE_SCALE = 3.0
_MAX_GUIDANCE_SCALE = 20.0
_NUM_FRAMES = 81
_MAX_FRAMES = 241
_FRAMES_PER_SECOND = 16
# Of one frame: a little more than the largest size the model was made for.
_MAX_PIXELS = 1280 * 1280


@dataclass(frozen=True, slots=True)
class LatentGrid:
    """How pixels and frames become latents.

    Attributes:
        pixels: per latent, on each side.
        frames: per latent, after the first, which is one frame.
    """

    pixels: int
    frames: int

    @classmethod
    def of(cls, directory: ModelDirectory) -> Self:
        """Reads the VAE's configuration.

        Raises:
            ConfigurationError: it does not say.
        """
        config = directory.config("vae")
        match config.get("scale_factor_spatial"), config.get("scale_factor_temporal"):
            case int(pixels), int(frames) if pixels > 0 and frames > 0:
                return cls(pixels, frames)
            case factors:
                raise ConfigurationError(
                    f"{directory.path / 'vae' / 'config.json'}: scale_factor_spatial and"
                    f" scale_factor_temporal are {factors}, not whole numbers"
                )

    def shape(self, parameters: GenerationParameters, frames: int) -> tuple[int, int, int]:
        """Frames, rows and columns of a request's latents."""
        return (
            (frames - 1) // self.frames + 1,
            parameters.height // self.pixels,
            parameters.width // self.pixels,
        )


@dataclass(frozen=True, slots=True)
class Video:
    """Effective options of a request.

    Attributes:
        low_noise_guidance_scale: of the expert for low noise.
    """

    num_frames: int
    low_noise_guidance_scale: float


def video_options(parameters: GenerationParameters) -> Video:
    """A request's options, all of them set.

    Raises:
        TriptychError: they are another family's.
    """
    match parameters.options:
        case VideoOptions(num_frames=int(frames), low_noise_guidance_scale=float(scale)):
            return Video(frames, scale)
    raise TriptychError(f"options: are {parameters.options!r}, not those of a video")


def boundary_ratio(directory: ModelDirectory) -> float:
    """The noise level, 0 to 1, from which on the expert for high noise works.

    Raises:
        ConfigurationError: the directory has no such level, or asks for what is not served.
    """
    ratio = directory.setting("boundary_ratio")
    if not isinstance(ratio, float) or not 0 < ratio < 1:
        raise ConfigurationError(
            f"{directory.index_path}: boundary_ratio is {ratio!r}; served are models with two"
            " experts, which have a ratio between 0 and 1"
        )
    if directory.setting("expand_timesteps"):
        raise ConfigurationError(
            f"{directory.index_path}: expand_timesteps is true; models that start from an image"
            " are not served"
        )
    return ratio


def _options(grid: LatentGrid) -> tuple[OptionLimits, ...]:
    return (
        OptionLimits(
            name="video.num_frames",
            kind=OptionKind.INTEGER,
            minimum=1,
            maximum=_MAX_FRAMES,
            step=grid.frames,
            default=_NUM_FRAMES,
        ),
        OptionLimits(
            name="video.frames_per_second",
            kind=OptionKind.INTEGER,
            minimum=1,
            maximum=60,
            step=1,
            default=_FRAMES_PER_SECOND,
        ),
        OptionLimits(
            name="video.low_noise_guidance_scale",
            kind=OptionKind.NUMBER,
            minimum=1.0,
            maximum=_MAX_GUIDANCE_SCALE,
            default=_LOW_NOISE_GUIDANCE_SCALE,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _WanSpec(PictureSpec):
    """A video's latents are fewer than its frames, and two experts take turns."""

    def limits(self, directory: ModelDirectory) -> PictureLimits:
        patch = directory.config("transformer").get("patch_size")
        if not isinstance(patch, list) or len(patch) != 3 or patch[0] != 1 or patch[1] != patch[2]:
            raise ConfigurationError(
                f"{directory.path / 'transformer' / 'config.json'}: patch_size is {patch!r}; served"
                " is one frame by a square"
            )
        limits = picture_limits(LatentGrid.of(directory).pixels * patch[1])
        limits["max_pixels"] = _MAX_PIXELS
        return limits

    def capabilities(self, directory: ModelDirectory) -> Capabilities:
        boundary_ratio(directory)
        spec = replace(self, options=_options(LatentGrid.of(directory)))
        return PictureSpec.capabilities(spec, directory)

    def latents_bytes(self, directory: ModelDirectory, parameters: GenerationParameters) -> int:
        frames = video_options(parameters).num_frames
        shape = LatentGrid.of(directory).shape(parameters, frames)
        channels = configured_size(directory, VAE_CONFIG, self.latent_channels)
        return channels * math.prod(shape) * ElementType.FLOAT32.size_bytes

    def residency(self, directory: ModelDirectory, request: DenoiseRequest) -> Residency:
        parameters = request.parameters
        latents_bytes = self.latents_bytes(directory, parameters)
        rows, columns = directory.config("transformer")["patch_size"][1:]
        channels = configured_size(directory, TRANSFORMER_CONFIG, "in_channels")
        tokens = latents_bytes // (channels * rows * columns * ElementType.FLOAT32.size_bytes)
        values = tokens * inner_width(directory)
        return Residency(
            # The solver keeps its last input and the last results of both of its orders.
            state_bytes=state_bytes(request, 4 * latents_bytes, tokens=0),
            hidden_bytes=values * parameters.dtype.size_bytes,
            encoder_bytes=0,
            # Compared in float32 always.
            signal_bytes=values * ElementType.FLOAT32.size_bytes,
            # A cache keeps what it has of one expert while the other works.
            forwards=4 if parameters.guided else 2,
        )


SPECS = (
    _WanSpec(
        name="wan",
        pipeline_classes=frozenset({"WanPipeline"}),
        classes={
            "text_encoder": "UMT5EncoderModel",
            "tokenizer": "T5TokenizerFast",
            "transformer": "WanTransformer3DModel",
            "transformer_2": "WanTransformer3DModel",
            "scheduler": "UniPCMultistepScheduler",
            "vae": "AutoencoderKLWan",
        },
        prompt_tokens=PROMPT_TOKENS,
        prompt_width="text_dim",
        latent_channels="z_dim",
        # The solver's small steps add up.
        latents_dtype=ElementType.FLOAT32,
        max_guidance_scale=_MAX_GUIDANCE_SCALE,
        media_formats=(MediaFormat.MP4, MediaFormat.PNG_ARCHIVE),
        # The 14B card's values; the pipeline's own are for an earlier model.
        defaults=GenerationDefaults(
            width=1280, height=720, steps=40, guidance_scale=4.0, negative_prompt=""
        ),
    ),
)
