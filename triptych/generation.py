"""What came out of a request."""

import io
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from triptych.cache import Cache, CacheStatistics, NoCache
from triptych.conditioning_reuse import ConditioningReuse
from triptych.family_options import FamilyOptions
from triptych.input_image import ImageDescription
from triptych.parallel import ONE_RANK, ParallelDegrees
from triptych.whole_file import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """Effective values: defaults filled in, the seed that was used.

    Attributes:
        negative_prompt: None when guidance is off.
        width: in pixels.
        height: in pixels.
        dtype: the type the model computed in, for example "float32".
        media_format: for example "png".
        images: the input images, in order.
        options: of the model's family; None for a model that has none.
        cache: how work was reused between steps.
        preview_every_steps: 0 for no previews.
    """

    model: str
    prompt: str
    negative_prompt: str | None
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    dtype: str
    media_format: str
    images: tuple[ImageDescription, ...]
    options: FamilyOptions | None
    cache: Cache = field(default_factory=NoCache)
    preview_every_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTiming:
    """Where the time of one stage went.

    Attributes:
        stage: "encoder", "denoiser" or "vae".
        task: "encode_prompt", "encode_images", "denoise" or "decode".
        queue_seconds: waiting for the stage to begin this request.
        run_seconds: inside the stage's own computation.
        transfer_seconds: writing and reading tensors.
        total_seconds: as seen by the gateway, everything included.
        writing_seconds: the part of run_seconds in which a language model wrote.
    """

    stage: str
    task: str
    queue_seconds: float
    run_seconds: float
    transfer_seconds: float
    total_seconds: float
    writing_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished picture or video, verified against the announced size and checksum.

    Attributes:
        data: the encoded picture, video, or archive of pictures.
        media_format: of `data`: "png", "mp4" or "png_archive".
        width: in pixels.
        height: in pixels.
        num_frames: frames of a video, or layers of a picture; 1 for a picture in one piece.
        checksum_xxh3: XXH3-64 of `data`.
        latents_checksum_xxh3: XXH3-64 of the final latents: equal latents, equal checksums.
        total_seconds: as seen by the gateway.
        cache_statistics: what the cache did; None without one.
        written_prompt: what a language model made of the prompt, if it was asked to; the picture
            was drawn from this.
        parallel_degrees: how its denoising steps were spread over ranks.
        tile_size: side in pixels of the tiles that the VAE works in; 0 if it works in none.
            Pictures that are larger, input images among them, get other pixels than without.
        conditioning_reuse: what was looked up in a conditioning cache, one of each kind; empty
            without one.
    """

    job_id: str
    data: bytes
    media_format: str
    width: int
    height: int
    num_frames: int
    checksum_xxh3: int
    parameters: GenerationParameters
    stage_timings: tuple[StageTiming, ...]
    latents_checksum_xxh3: int
    total_seconds: float
    written_prompt: str | None
    cache_statistics: CacheStatistics | None = None
    parallel_degrees: ParallelDegrees = ONE_RANK
    tile_size: int = 0
    conditioning_reuse: tuple[ConditioningReuse, ...] = ()

    @property
    def seed(self) -> int:
        """The seed that was used; the same seed and parameters give the same picture."""
        return self.parameters.seed

    def pictures(self) -> list[bytes]:
        """PNG files: the one picture, or the layers or frames in their order.

        Raises:
            ValueError: this is a video, whose frames have to be decoded.
        """
        match self.media_format:
            case "png":
                return [self.data]
            case "png_archive":
                with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
                    return [archive.read(each) for each in archive.infolist()]
        raise ValueError(
            f"media_format is {self.media_format}, which holds no PNG files;"
            " ask for media_format='png_archive' to get them"
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes `data`: whole or not at all, and nobody ever reads half of it.

        Raises:
            OSError: the file cannot be written; what was there before is still there.
        """
        return write_whole(path, self.data)
