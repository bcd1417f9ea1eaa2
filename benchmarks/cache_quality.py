"""What caches gain and what they cost: speed beside the likeness to the uncached picture.

python -m benchmarks.cache_quality [--steps N] [--model DIRECTORY]
"""

import argparse
import statistics
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from pydantic import SecretStr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from benchmarks.report import RESULTS, Row, write
from denoiser_service.stage import DenoiseStage
from services.domain.element_type import ElementType
from services.domain.generation import GenerationRequest, resolve
from services.domain.stages import DenoiseRequest
from services.domain.tensor_ref import Seal
from services.model_api.runtime import set_up_torch
from services.model_families.loading import load_denoiser, load_encoder, load_vae
from services.tensor_store.tensor_store import TensorStore, open_store

TENANT = "benchmark"
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
    " {prompts} prompts, float32. For each prompt the uncached picture and every cached one are"
    " drawn one after the other, with the same seed. The speed-up is that of the denoising loop:"
    " the median over prompts of its processor time without the cache over that with it, with the"
    " smallest and the largest ratio. Reused is the share of forwards that skipped blocks.",
    "PSNR (dB) and SSIM compare the cached picture with the uncached one, pixel by pixel:"
    " the smallest over the prompts, and the median. Equal pictures have no PSNR: inf.",
    "TeaCache's polynomial is the identity: those published were fitted to other models.",
)


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


FAST = {"mask_policy": "fast", "policy": "dynamic"}
CURVES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "TeaCache": [(f"{each}", tea_cache(each)) for each in (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)],
    "DBCache F1 W8": [(f"{each}", dbcache(each)) for each in (0.08, 0.12, 0.24, 0.4)],
    "DBCache F1 W8 + TaylorSeer": [
        (f"{each}", dbcache(each, taylorseer_order=1)) for each in (0.08, 0.12, 0.24, 0.4)
    ],
    "DBCache F8 W8": [
        (f"{each}", dbcache(each, fn_compute_blocks=8)) for each in (0.08, 0.12, 0.24)
    ],
    "DBCache F1 + SCM fast": [(f"{each}", dbcache(each, scm=FAST)) for each in (0.24, 0.4)],
}


@dataclass(frozen=True)
class Drawn:
    """A picture, the processor time of its loop, and the share of forwards that were reused."""

    pixels: np.ndarray
    seconds: float
    reused: float


class Painter:
    """The three stages of a model in this process."""

    def __init__(self, model: Path, store: TensorStore) -> None:
        told = (model, None, ElementType.FLOAT32, "cpu")
        self._encoder, self._denoiser = load_encoder(*told), load_denoiser(*told)
        self._vae, self._store = load_vae(*told), store

    def draw(self, prompt: str, seed: int, steps: int, cache: dict[str, Any] | None) -> Drawn:
        """One request, its loop timed."""
        request = GenerationRequest.model_validate(
            {"prompt": prompt, "seed": seed, "steps": steps, "cache": cache}
        )
        parameters = resolve(request, self._denoiser.loaded.model, lambda: seed)
        request_id = uuid.uuid4().hex
        conditioning = dict(self._encoder.model.encode(parameters))
        stored = self._store.put(conditioning, tenant=TENANT, request_id=request_id)
        stage = DenoiseStage(self._denoiser, self._store)
        stage.prepare(DenoiseRequest(request_id, TENANT, parameters, stored))
        began = time.process_time()
        decisions = [each for _ in range(steps) for each in stage.step(request_id).decisions]
        seconds = time.process_time() - began
        finished = stage.finish(request_id)
        with self._store.get(finished.latents, tenant=TENANT, request_id=request_id) as latents:
            (picture,) = self._vae.model.decode(parameters, latents)
        self._store.release_request(TENANT, request_id)
        reused = sum(each.reused for each in decisions) / max(len(decisions), 1)
        return Drawn(np.asarray(picture), seconds, reused)


def measure(painter: Painter, steps: int) -> list[Row]:
    """Every point of every curve."""
    painter.draw(PROMPTS[0], 0, steps, None)
    plain: dict[str, Drawn] = {}
    drawn: dict[tuple[str, str], list[tuple[Drawn, Drawn]]] = {}
    for seed, prompt in enumerate(PROMPTS):
        plain[prompt] = painter.draw(prompt, seed, steps, None)
        for curve, points in CURVES.items():
            for name, cache in points:
                cached = painter.draw(prompt, seed, steps, cache)
                # Beside each one, so that both meet the same machine.
                again = painter.draw(prompt, seed, steps, None)
                drawn.setdefault((curve, name), []).append((again, cached))
        print(f"{seed + 1} of {len(PROMPTS)} prompts")
    return [row(*key, pairs) for key, pairs in drawn.items()]


def row(curve: str, name: str, pairs: Sequence[tuple[Drawn, Drawn]]) -> Row:
    """One point over all prompts."""
    ratios = [plain.seconds / cached.seconds for plain, cached in pairs]
    psnr = [_psnr(plain.pixels, cached.pixels) for plain, cached in pairs]
    ssim = [
        float(structural_similarity(plain.pixels, cached.pixels, channel_axis=-1))
        for plain, cached in pairs
    ]
    return {
        "method": curve,
        "threshold": name,
        "speed-up": statistics.median(ratios),
        "smallest": min(ratios),
        "largest": max(ratios),
        "reused": f"{statistics.median(cached.reused for _, cached in pairs):.0%}",
        "PSNR min": min(psnr),
        "PSNR median": statistics.median(psnr),
        "SSIM min": min(ssim),
        "SSIM median": statistics.median(ssim),
    }


def _psnr(plain: np.ndarray, cached: np.ndarray) -> float:
    # The library divides by the error.
    same = np.array_equal(plain, cached)
    return float("inf") if same else float(peak_signal_noise_ratio(plain, cached))


def plot(rows: Sequence[Row], file: Path) -> None:
    """Speed against quality, one curve per method."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for curve in CURVES:
        points = [each for each in rows if each["method"] == curve]
        axes.plot(
            [each["speed-up"] for each in points],
            [each["PSNR median"] for each in points],
            marker="o",
            label=curve,
        )
    axes.set(xlabel="speed-up of the denoising loop", ylabel="median PSNR, dB")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=120, metadata={"Software": None})


def main() -> None:
    """Measures, writes the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    told = parser.parse_args()
    set_up_torch(1)
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=600)) as store:
        rows = measure(Painter(told.model, store), told.steps)
    notes = [each.format(steps=told.steps, prompts=len(PROMPTS)) for each in NOTES]
    print(write("cache_quality", "Caches: speed and quality", rows, notes))
    plot(rows, RESULTS / "cache_quality.png")


if __name__ == "__main__":
    main()
