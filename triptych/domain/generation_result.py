"""What came out of a request, without its bytes."""

from dataclasses import dataclass

from triptych.domain.cache_statistics import CacheStatistics
from triptych.domain.conditioning_reuse import ConditioningReuse
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import MediaFormat
from triptych.domain.parallel import ONE_RANK, ParallelDegrees
from triptych.domain.receipt import NO_RECEIPT, Receipt
from triptych.domain.stage_timing import StageTiming


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact without its bytes: pixels, bytes, XXH3-64 of the encoded bytes.

    Attributes:
        num_frames: frames of a video, or layers of a picture; 1 for a picture in one piece.
        tile_size: side in pixels of the tiles that the VAE works in; 0 if it works in none.
            Pictures that are larger, input images among them, get other pixels than without.
        index: which of the request's results it is.
        seed: what it was drawn from.
        latents_checksum_xxh3: XXH3-64 of its final latents.
        expire_time: until when it can be downloaded again, in seconds of the epoch; None if the
            cluster does not keep it, or while that is not known.
        url: where anybody may read it for a quarter of an hour, without a key; of a job that was
            asked for, if its cluster's store signs URLs.
    """

    artifact_id: str
    media_format: MediaFormat
    width: int
    height: int
    num_frames: int
    size_bytes: int
    checksum_xxh3: int
    tile_size: int = 0
    index: int = 0
    seed: int = 0
    latents_checksum_xxh3: int = 0
    expire_time: float | None = None
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    """The outcome of a request.

    Attributes:
        parameters: effective values.
        latents_checksum_xxh3: XXH3-64 of the final latents: equal latents, equal checksums;
            of the first result, if there are several.
        total_seconds: as seen by the gateway.
        written_prompt: what a language model made of the prompt, if it was asked to; the picture
            was drawn from this.
        cache_statistics: what the request's cache did; None without one.
        parallel_degrees: how its denoising steps were spread over ranks.
        conditioning_reuse: what was looked up in a conditioning cache, one of each kind; empty
            without one.
        receipt: what its bytes depend on beside the parameters.
    """

    parameters: GenerationParameters
    artifacts: tuple[Artifact, ...]
    stage_timings: tuple[StageTiming, ...]
    latents_checksum_xxh3: int
    total_seconds: float
    written_prompt: str | None = None
    cache_statistics: CacheStatistics | None = None
    parallel_degrees: ParallelDegrees = ONE_RANK
    conditioning_reuse: tuple[ConditioningReuse, ...] = ()
    receipt: Receipt = NO_RECEIPT
