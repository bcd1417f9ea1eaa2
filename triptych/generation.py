"""What came out of a request."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """Effective values: defaults filled in, the seed that was used.

    Attributes:
        negative_prompt: None when guidance is off.
        width: in pixels.
        height: in pixels.
        dtype: the type the model computed in, for example "float32".
        media_format: for example "png".
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


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTiming:
    """Where the time of one stage went.

    Attributes:
        stage: "encoder", "denoiser" or "vae".
        queue_seconds: waiting for the stage to begin this request.
        run_seconds: inside the stage's own computation.
        transfer_seconds: writing and reading tensors.
        total_seconds: as seen by the gateway, everything included.
    """

    stage: str
    queue_seconds: float
    run_seconds: float
    transfer_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished picture, verified against the size and the checksum the cluster announced.

    Attributes:
        data: the encoded picture.
        media_format: of `data`, for example "png".
        width: in pixels.
        height: in pixels.
        checksum_xxh3: XXH3-64 of `data`.
        latents_checksum_xxh3: XXH3-64 of the final latents: equal latents, equal checksums.
        total_seconds: as seen by the gateway.
    """

    job_id: str
    data: bytes
    media_format: str
    width: int
    height: int
    checksum_xxh3: int
    parameters: GenerationParameters
    stage_timings: tuple[StageTiming, ...]
    latents_checksum_xxh3: int
    total_seconds: float

    @property
    def seed(self) -> int:
        """The seed that was used; the same seed and parameters give the same picture."""
        return self.parameters.seed

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the picture: whole or not at all, and nobody ever reads half of it.

        Raises:
            OSError: the file cannot be written; what was there before is still there.
        """
        target = Path(path)
        partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            partial.write_bytes(self.data)
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return target
