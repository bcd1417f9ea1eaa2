"""What to generate, as a caller asks for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from triptych.cache import Cache
from triptych.family_options import FamilyOptions
from triptych.input_image import InputImage

DType = Literal["float32", "bfloat16", "float16"]
MediaFormat = Literal["png", "mp4", "png_archive"]


class RequestOptions(TypedDict, total=False):
    """The keywords that every generating call takes; see GenerationRequest."""

    model: str | None
    negative_prompt: str | None
    width: int | None
    height: int | None
    steps: int | None
    guidance_scale: float | None
    seed: int | None
    dtype: DType | None
    images: Sequence[InputImage]
    media_format: MediaFormat | None
    options: FamilyOptions | None
    cache: Cache | None
    preview_every_steps: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What to generate. What is None takes the model's default.

    Attributes:
        prompt: what to draw.
        model: a served model's name; may be None while the cluster serves exactly one.
        negative_prompt: what not to draw; only with a guidance_scale above 1.
        width: in pixels.
        height: in pixels.
        steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 switches it off.
        seed: 0 to 2**63 - 1; drawn by the cluster if None, and reported.
        dtype: refuses the request unless the model runs in this type.
        images: pictures to start from, in order: each one the bytes of a PNG, JPEG or WebP file,
            the path of one (never a URL), or what `upload_image` returned.
        media_format: "png"; "mp4" for a video; "png_archive" for layers or frames in a ZIP file.
        options: knobs of the model's family, for example VideoOptions.
        cache: how to reuse work between steps, for example TeaCache(rel_l1_thresh=0.2).
        preview_every_steps: a Preview among the events after every so many steps; 0 for none.
    """

    prompt: str
    model: str | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    dtype: DType | None = None
    images: Sequence[InputImage] = ()
    media_format: MediaFormat | None = None
    options: FamilyOptions | None = None
    cache: Cache | None = None
    preview_every_steps: int | None = None
