"""What caches gain and what they cost: speed beside the likeness to the uncached picture.

python -m benchmarks.cache_quality [--steps N] [--prompts N] [--model DIRECTORY]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline
from matplotlib.ticker import MultipleLocator

from benchmarks.report import RESULTS, Row, write
from benchmarks.stock import stock_pipeline, switched_on
from services.loaded_models.loading import load_encoder
from services.torch_setup.runtime import set_up_torch
from services.tuning.comparison import psnr, ssim
from services.tuning.painter import Drawn, load_painter
from triptych.domain.acceleration import CacheDit, MaskPolicy
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve

PLAIN = {"kind": "none"}
IDENTITY = (0.0, 0.0, 0.0, 1.0, 0.0)
PROMPTS = (
    "a red circle on a blue background",
    "a green star on a white background",
    "two black squares on a yellow background",
    "a pink heart on a gray background",
    "an orange ring on a black background",
    "three purple triangles on a white background",
)
NOTES = (
    "The demo model in one process on one thread, 128 x 128 pixels, guidance 4, {steps} steps,"
    " {prompts} prompts, float32, on a machine that other work shared. For each prompt, the"
    " pictures of a method are drawn one after the other, between two without a cache, all with the"
    " same seed. The speed-up is that of the denoising loop: the median over prompts of its"
    " processor time without the cache (the mean of those two) over that with it, with the smallest"
    " and the largest ratio. Reused is the share of forwards that skipped blocks.",
    "PSNR (dB) and SSIM compare the cached picture with the uncached one, pixel by pixel:"
    " the smallest over the prompts, and the median. Equal pictures have no PSNR: inf.",
    "`stock` is the speed-up of the stock diffusers pipeline around the same weights with cache-dit"
    " switched on the library's own way, drawn right after ours: `stock / ours` is the median of"
    " its processor time over ours. Its latents are ours, bit for bit (the run ends if they are"
    " not), and so its pictures are as good. The library has no TeaCache.",
    "TeaCache's polynomial is the identity: those published were fitted to other models. Masks"
    " apply at threshold 0.24, to steps after the warm-up.",
)
SCM_THRESHOLD = 0.24


def dbcache(threshold: float, **options: object) -> dict[str, Any]:
    """The published defaults of Cache-DiT's page, without a limit to reuse in a row."""
    return {
        "kind": "cache_dit",
        "max_warmup_steps": 8,
        "max_continuous_cached_steps": -1,
        "residual_diff_threshold": threshold,
        **options,
    }


def tea_cache(threshold: float) -> dict[str, Any]:
    """TeaCache with the identity."""
    return {"kind": "tea_cache", "rel_l1_thresh": threshold, "coefficients": IDENTITY}


def thresholds(cache: Callable[[float], dict[str, Any]], *values: float) -> dict[str, Any]:
    """Points of a curve."""
    return {f"{each}": cache(each) for each in values}


CURVES: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "TeaCache": thresholds(tea_cache, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5),
    "DBCache F1 W8": thresholds(dbcache, 0.12, 0.24, 0.4),
    "DBCache F1 W8, at most 3 in a row": thresholds(
        partial(dbcache, max_continuous_cached_steps=3), 0.24, 0.4
    ),
    "DBCache F1 W8 + TaylorSeer": thresholds(partial(dbcache, taylorseer_order=1), 0.12, 0.24, 0.4),
    "DBCache F4 W8": thresholds(partial(dbcache, fn_compute_blocks=4), 0.12, 0.24),
    "DBCache F8 W8": thresholds(partial(dbcache, fn_compute_blocks=8), 0.12, 0.24),
    "DBCache F1 W8 + SCM": {
        each.value: dbcache(SCM_THRESHOLD, scm_mask_policy=each.value, scm_policy="dynamic")
        for each in MaskPolicy
    },
}


@dataclass(frozen=True)
class Point:
    """One prompt with one cache.

    Attributes:
        plain_seconds: of the loop without a cache, about the same time.
        stock_seconds: of the stock pipeline's loop with the same cache; None if it has none.
    """

    plain: Drawn
    plain_seconds: float
    cached: Drawn
    stock_seconds: float | None


class Canvas:
    """The three stages of a model in this process, and the stock pipeline around its weights."""

    def __init__(self, model: Path, steps: int) -> None:
        told = (model, ElementType.FLOAT32, "cpu")
        self._painter, self._steps = load_painter(*told), steps
        self._encoder = load_encoder(model, None, *told[1:])
        self._scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(model / "scheduler")

    def _parameters(self, prompt: str, seed: int, cache: dict[str, Any]) -> GenerationParameters:
        request = GenerationRequest(prompt=prompt, seed=seed, steps=self._steps, cache=cache)
        return resolve(request, self._painter.denoiser.loaded.model, lambda: seed)

    def draw(self, prompt: str, seed: int, cache: dict[str, Any] = PLAIN) -> Drawn:
        """One request, its loop timed."""
        return self._painter.draw(self._parameters(prompt, seed, cache))

    def time_stock(
        self, prompt: str, seed: int, cache: dict[str, Any], ours: Drawn
    ) -> float | None:
        """Processor seconds of the stock pipeline's loop for what we drew; None without cache-dit.

        Raises:
            AssertionError: its latents are others.
        """
        parameters = self._parameters(prompt, seed, cache)
        if not isinstance(parameters.cache, CacheDit):
            return None
        transformer = self._painter.denoiser.model.components["transformer"]
        pipeline = stock_pipeline(QwenImagePipeline, transformer, self._scheduler)
        width, height = parameters.width, parameters.height
        embeddings = self._encoder.model.encode(parameters)
        masks = {f"{name}_mask": torch.ones(each.shape[:2]) for name, each in embeddings.items()}
        with switched_on(pipeline, parameters.cache, guided=True, steps=self._steps):
            began = time.process_time()
            (packed,) = pipeline(
                **embeddings,
                **masks,
                width=width,
                height=height,
                num_inference_steps=self._steps,
                true_cfg_scale=parameters.guidance_scale,
                generator=torch.Generator().manual_seed(seed),
                output_type="latent",
                return_dict=False,
            )
            seconds = time.process_time() - began
        factor = pipeline.vae_scale_factor
        latents = pipeline._unpack_latents(packed, height, width, factor)  # noqa: SLF001
        assert torch.equal(latents, ours.latents["latents"]), cache
        return seconds


def measure(canvas: Canvas, prompts: Sequence[str]) -> list[Row]:
    """Every point of every curve."""
    canvas.draw(prompts[0], 0)
    points: dict[tuple[str, str], list[Point]] = {}
    for seed, prompt in enumerate(prompts):
        before = canvas.draw(prompt, seed)
        for curve, caches in CURVES.items():
            drawn = {}
            for name, cache in caches.items():
                cached = canvas.draw(prompt, seed, cache)
                drawn[name] = (cached, canvas.time_stock(prompt, seed, cache, cached))
            # Around each curve, so that all of it meets the same machine.
            after = canvas.draw(prompt, seed)
            plain = statistics.mean([before.seconds, after.seconds])
            for name, (cached, stock) in drawn.items():
                points.setdefault((curve, name), []).append(Point(after, plain, cached, stock))
            before = after
        print(f"{seed + 1} of {len(prompts)} prompts", file=sys.stderr)
    return [row(*key, drawn) for key, drawn in points.items()]


def row(curve: str, name: str, points: Sequence[Point]) -> Row:
    """One point over all prompts."""
    ratios = [each.plain_seconds / each.cached.seconds for each in points]
    pairs = [(each.plain.pictures, each.cached.pictures) for each in points]
    psnrs = [psnr(*pair) for pair in pairs]
    ssims = [ssim(*pair) for pair in pairs]
    stock = [(each, each.stock_seconds) for each in points if each.stock_seconds is not None]
    return {
        "method": curve,
        "setting": name,
        "speed-up": statistics.median(ratios),
        "smallest": min(ratios),
        "largest": max(ratios),
        "reused": f"{statistics.median(each.cached.reused for each in points):.0%}",
        "PSNR min": min(psnrs),
        "PSNR median": statistics.median(psnrs),
        "SSIM min": min(ssims),
        "SSIM median": statistics.median(ssims),
        "stock": _median([each.plain_seconds / seconds for each, seconds in stock]),
        "stock / ours": _median([seconds / each.cached.seconds for each, seconds in stock]),
    }


def _median(values: Sequence[float]) -> float | str:
    return statistics.median(values) if values else ""


def plot(rows: Sequence[Row], file: Path) -> None:
    """Speed against quality, one curve per method."""
    figure, axes = plt.subplots(figsize=(8, 5.5))
    for curve, marker in zip(CURVES, "osD^v<>", strict=True):
        points = [each for each in rows if each["method"] == curve]
        axes.plot(
            [each["speed-up"] for each in points],
            [each["PSNR median"] for each in points],
            marker=marker,
            label=curve,
        )
    axes.set(xlabel="speed-up of the denoising loop", ylabel="median PSNR, dB")
    axes.xaxis.set_major_locator(MultipleLocator(0.5))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120, metadata={"Software": None})


def main() -> None:
    """Measures, writes the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    parser.add_argument("--prompts", type=int, choices=range(1, len(PROMPTS) + 1))
    told = parser.parse_args()
    prompts = PROMPTS[: told.prompts]
    set_up_torch(1)
    rows = measure(Canvas(told.model, told.steps), prompts)
    notes = [each.format(steps=told.steps, prompts=len(prompts)) for each in NOTES]
    print(write("cache_quality", "Caches: speed and quality", rows, notes))
    plot(rows, RESULTS / "cache_quality.png")


if __name__ == "__main__":
    main()
