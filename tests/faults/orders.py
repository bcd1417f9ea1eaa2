"""What the stream of jobs asks for: a few different orders, again and again."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from triptych.codec.tables import REQUESTS
from triptych.domain.acceleration import NO_CACHE, Cache, TeaCache
from triptych.domain.generation import GenerationRequest
from triptych.v1 import generation_pb2

_AS_IT_IS: Final = (0.0, 0.0, 0.0, 1.0, 0.0)
"""Of a polynomial, highest power first: none is published for checkpoints of random weights."""


@dataclass(frozen=True, slots=True)
class Order:
    """One kind of job.

    Attributes:
        name: for the record.
        message: what is asked.
    """

    name: str
    message: generation_pb2.GenerationParameters


@dataclass(frozen=True, slots=True)
class Painter:
    """A model, and how it is asked.

    Attributes:
        kind: "text", "edit" or "video".
        name: the model's.
        steps: of each job.
        width: in pixels; also the height.
        frames: of a video.
    """

    kind: str
    name: str
    steps: int
    width: int
    frames: int | None = None

    def orders(self, seeds: Sequence[int]) -> Iterator[Order]:
        """Its orders: each seed, without a cache and with one that is saved whole."""
        for seed in seeds:
            for cache in (NO_CACHE, TeaCache(rel_l1_thresh=0.2, coefficients=_AS_IT_IS)):
                yield Order(f"{self.kind}, {cache.kind}, seed {seed}", self._message(seed, cache))

    def _message(self, seed: int, cache: Cache) -> generation_pb2.GenerationParameters:
        asked = GenerationRequest(
            model=self.name,
            prompt="a red circle on a blue background",
            width=self.width,
            height=self.width,
            steps=self.steps,
            seed=seed,
            cache=cache,
        )
        message = REQUESTS.write(asked)
        if self.frames is not None:
            message.video.num_frames = self.frames
        if self.kind == "edit":
            message.images.add().data = _picture(seed)
        return message


def _picture(seed: int) -> bytes:
    levels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(levels).save(written, "png")
    return written.getvalue()
