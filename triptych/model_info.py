"""What a served model is, accepts, and does with what is left out."""

from dataclasses import dataclass

from triptych.cache import Cache


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFit:
    """A size with the last input image's proportions, of nearly a given area or nearly its own.

    Attributes:
        area_pixels: nearly this; with edges, at most this.
        multiple: sides are multiples of this many pixels.
        rounds_up: to the next multiple rather than to the nearest.
        overridable: whether a request may ask for another width and height.
        shortest_edge: smaller images are made larger; 0 where the area decides.
        longest_edge: larger images are made smaller; 0 where the area decides.
    """

    area_pixels: int
    multiple: int
    rounds_up: bool
    overridable: bool
    shortest_edge: int = 0
    longest_edge: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionLimits:
    """One knob of a model's family; bounds are inclusive.

    Attributes:
        name: its path in a request, for example "video.num_frames".
        kind: "integer", "number" or "switch"; for a switch, 0 is off and 1 is on.
        step: allowed are the minimum and so much more, and so on; 0 for anything between.
    """

    name: str
    kind: str
    minimum: float
    maximum: float
    step: float
    default: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a request may ask of a model; bounds are inclusive, sides are in pixels.

    Attributes:
        media_formats: the first one is the default.
        cache_methods: ways to reuse work between steps, for example "tea_cache".
        tea_cache_coefficients: the model's own; empty where a request must bring them.
        tea_cache_coefficients_source: "published" or "calibrated"; empty where there are none.
        parallel_methods: ways to spread a step over ranks, for example "ulysses".
        attention_heads: that the degree of Ulysses must divide.
        guidance_branches: the highest degree of CFG-Parallel.
        guidance_field: of a request: how much a branch from the negative prompt steers, which is
            run above guidance_off_scale.
        supports_previews: whether a request may ask for pictures of what it is heading for.
        supports_step_batching: whether requests of the same sizes can share a step, where a
            denoiser is told to.
        min_images: input images that a request must carry.
        max_images: input images that a request may carry.
        image_fit: how the size follows from the last input image; None where it does not.
        options: knobs of the model's family.
    """

    max_prompt_characters: int
    max_prompt_tokens: int
    size_multiple: int
    min_side: int
    max_side: int
    max_pixels: int
    min_steps: int
    max_steps: int
    supports_guidance: bool
    min_guidance_scale: float
    max_guidance_scale: float
    supports_negative_prompt: bool
    guidance_field: str
    guidance_off_scale: float
    media_formats: tuple[str, ...]
    cache_methods: tuple[str, ...]
    tea_cache_coefficients: tuple[float, ...]
    tea_cache_coefficients_source: str
    parallel_methods: tuple[str, ...]
    attention_heads: int
    guidance_branches: int
    supports_previews: bool
    supports_step_batching: bool
    min_images: int
    max_images: int
    image_fit: ImageFit | None
    options: tuple[OptionLimits, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDefaults:
    """Values for what a request leaves out.

    Attributes:
        negative_prompt: used when guidance is on and the request has none.
        cache: used when the request names no cache, not even NoCache.
        cache_min_steps: a request with fewer steps does without.
    """

    width: int
    height: int
    steps: int
    guidance_scale: float
    negative_prompt: str
    cache: Cache
    cache_min_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A served model.

    Attributes:
        family: for example "qwen-image".
        dtype: the type the served weights compute in, for example "float32".
    """

    name: str
    family: str
    dtype: str
    limits: ModelLimits
    defaults: ModelDefaults
