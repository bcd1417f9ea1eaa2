"""What Wan accepts, read from a directory's configuration."""

from dataclasses import dataclass
from typing import Self

from services.domain.stages import DenoiseRequest
from services.model_files.configuration import configured_size, inner_width
from services.model_files.directory import ModelDirectory
from services.model_ports.capabilities import cache_support, parallel_support, picture_limits
from services.model_ports.sizes import Crossings, Residency, pixels_bytes, prompt_bytes, state_bytes
from services.model_ports.spec import FamilySpec
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError, TriptychError
from triptych.domain.family_options import OptionKind, OptionLimits, VideoOptions
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import Capabilities, GenerationDefaults, MediaFormat, Stage

PROMPT_TOKENS = 512
"""What UMT5 reads of a prompt; shorter ones are padded to it."""

# The 14B card's values; the pipeline's own are for an earlier model.
_DEFAULTS = GenerationDefaults(
    width=1280, height=720, steps=40, guidance_scale=4.0, negative_prompt=""
)
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


def _capabilities(directory: ModelDirectory) -> Capabilities:
    boundary_ratio(directory)
    patch = directory.config("transformer").get("patch_size")
    if not isinstance(patch, list) or len(patch) != 3 or patch[0] != 1 or patch[1] != patch[2]:
        raise ConfigurationError(
            f"{directory.path / 'transformer' / 'config.json'}: patch_size is {patch!r}; served is"
            " one frame by a square"
        )
    grid = LatentGrid.of(directory)
    limits = picture_limits(grid.pixels * patch[1])
    limits["max_pixels"] = _MAX_PIXELS
    return Capabilities(
        **limits,
        max_prompt_tokens=PROMPT_TOKENS,
        min_steps=1,
        supports_guidance=True,
        min_guidance_scale=1.0,
        max_guidance_scale=_MAX_GUIDANCE_SCALE,
        supports_previews=True,
        media_formats=(MediaFormat.MP4, MediaFormat.PNG_ARCHIVE),
        options=_options(grid),
        cache_support=cache_support(directory, ("num_layers",), None),
        supports_step_batching=True,
        parallel_support=parallel_support(directory, "num_attention_heads"),
        defaults=directory.defaults(_DEFAULTS),
    )


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


def _crossings(directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
    grid, frames = LatentGrid.of(directory), video_options(parameters).num_frames
    latent_frames, rows, columns = grid.shape(parameters, frames)
    channels = configured_size(directory, "vae/config.json", "z_dim")
    width = configured_size(directory, "transformer/config.json", "text_dim")
    return Crossings(
        conditioning_bytes=prompt_bytes(parameters, PROMPT_TOKENS, width),
        image_latents_bytes=0,
        # In float32 always: the solver's small steps add up.
        latents_bytes=channels * latent_frames * rows * columns * ElementType.FLOAT32.size_bytes,
        pixels_bytes=pixels_bytes(parameters, pictures=frames),
    )


def _residency(directory: ModelDirectory, request: DenoiseRequest) -> Residency:
    parameters = request.parameters
    latents_bytes = _crossings(directory, parameters).latents_bytes
    rows, columns = directory.config("transformer")["patch_size"][1:]
    channels = configured_size(directory, "transformer/config.json", "in_channels")
    tokens = latents_bytes // (channels * rows * columns * ElementType.FLOAT32.size_bytes)
    width, element = inner_width(directory), parameters.dtype.size_bytes
    values = tokens * width
    return Residency(
        # The solver keeps its last input and the last results of both of its orders.
        state_bytes=state_bytes(request, 4 * latents_bytes, tokens=0),
        hidden_bytes=values * element,
        encoder_bytes=0,
        # Compared in float32 always.
        signal_bytes=values * ElementType.FLOAT32.size_bytes,
        # A cache keeps what it has of one expert while the other works.
        forwards=4 if parameters.guided else 2,
    )


SPECS = (
    FamilySpec(
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
        capabilities=_capabilities,
        crossings=_crossings,
        residency=_residency,
        weights={
            Stage.ENCODER: ("text_encoder",),
            Stage.DENOISER: ("transformer", "transformer_2"),
            Stage.VAE: ("vae",),
        },
        configs={
            Stage.ENCODER: ("tokenizer", "vae", "transformer"),
            Stage.DENOISER: ("scheduler", "vae"),
            Stage.VAE: ("transformer",),
        },
    ),
)
