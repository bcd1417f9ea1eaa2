"""Denoising at the size of the published models, on a GPU: stock diffusers against our denoiser.

python -m benchmarks.gpu_real_size [--model NAME ...] [--compile] [--attention-backend NAME]

Without a CUDA device it refuses, with exit code 2. `--tiny` runs small sizes on the CPU instead, to
see that it works, and writes no results.
"""

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import SecretStr

from benchmarks.loops import Looped, our_loop, stock_loop
from benchmarks.random_model import (
    ARCHITECTURES,
    FLUX_DEV,
    QWEN_IMAGE,
    Architecture,
    RandomModel,
    tiny,
)
from benchmarks.report import Row, page, write
from benchmarks.stock import switched_on
from benchmarks.turns import Pause
from denoiser_service.rank.stage import DenoiseStage
from services.domain.tensor_ref import Seal
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.kernels import set_kernels
from services.torch_setup.runtime import set_up_torch, wait_for
from triptych.domain.acceleration import CacheDit
from triptych.domain.errors import ConfigurationError
from triptych.domain.generation import GenerationParameters

EXIT_UNUSABLE = 2
GIB = 2**30
GUIDANCE_SCALES = {QWEN_IMAGE.name: 4.0, FLUX_DEV.name: 3.5}
SEED = 0
# Random weights decide nothing sensibly: every change counts as small, and what is skipped is said.
CACHES: dict[str, dict[str, Any]] = {
    "none": {"kind": "none"},
    # Every second step, which is the share behind the published factor of two (threshold 0.6).
    "TeaCache": {"kind": "tea_cache", "rel_l1_thresh": 1.5, "coefficients": (0, 0, 0, 0, 1)},
    "DBCache F1 B0 W8 + TaylorSeer": {
        "kind": "cache_dit",
        "max_warmup_steps": 8,
        "max_continuous_cached_steps": 3,
        "residual_diff_threshold": 1e9,
        "taylorseer_order": 1,
    },
    "DBCache F8 B0 W4 + TaylorSeer + SCM fast": {
        "kind": "cache_dit",
        "fn_compute_blocks": 8,
        "max_warmup_steps": 4,
        "max_continuous_cached_steps": -1,
        "residual_diff_threshold": 1e9,
        "taylorseer_order": 1,
        "scm_mask_policy": "fast",
        "scm_policy": "dynamic",
    },
}
NOTES = (
    "Real architectures with random weights in bfloat16, made on the device; {side} x {side}"
    " pixels, {steps} steps; Qwen-Image with guidance 4 (two forwards a step), FLUX.1-dev with"
    " its distilled guidance. The denoising loop alone: prompts are random embeddings, nothing"
    " is decoded. Stock is the published diffusers pipeline, for caches with cache-dit switched"
    " on the library's own way; ours is a denoising stage as a rank runs it. Attention:"
    " {attention}. Compiled blocks: {compiled}.",
    "Weights that are random decide nothing about caches: every change counts as small, so that"
    " what is skipped follows from the options. It is in the table (`reused`), and times are to"
    " be read with it. `step` is the median over steps, first ones left out; `ratio` is stock"
    " without a cache over this row, in total time. Device: {device}.",
)


@dataclass
class Clock:
    """Times the steps of a loop, each to the end of the device's work."""

    device: torch.device
    seconds: list[float] = field(default_factory=list)
    _began: float = 0.0

    def run(self, loop: Callable[[Pause], Looped]) -> Looped:
        """Runs a loop to its end."""
        wait_for(self.device)
        self._began = time.perf_counter()
        return loop(self._after_step)

    def _after_step(self) -> None:
        wait_for(self.device)
        now = time.perf_counter()
        self.seconds.append(now - self._began)
        self._began = now


@dataclass(frozen=True)
class Told:
    """What the whole run is told."""

    device: torch.device
    steps: int
    side: int
    attention_backend: str | None
    compiled: bool


def rows(architecture: Architecture, told: Told, folder: Path, store: TensorStore) -> list[Row]:
    """All rows of one model.

    Raises:
        ConfigurationError: it cannot be compiled, or use the attention backend.
    """
    model = RandomModel(architecture, folder, told.device, torch.bfloat16)
    set_kernels({"": model.transformer}, told.attention_backend, compiled=told.compiled)
    stage = DenoiseStage(model.staged(model.transformer), store)
    made: list[Row] = []
    for name, cache in CACHES.items():
        parameters = model.parameters(
            width=told.side,
            height=told.side,
            steps=told.steps,
            seed=SEED,
            guidance_scale=GUIDANCE_SCALES[architecture.name],
            cache=cache,
        )
        ours = our_loop(model, stage, store, parameters)
        drawn, row = _measured("ours", name, model, told, ours)
        if name == "none" or isinstance(parameters.cache, CacheDit):
            with _stock(model, parameters) as stock:
                theirs, beside = _measured("stock", name, model, told, stock)
            beside["reused"] = row["reused"]
            row["same bits"] = "yes" if torch.equal(drawn.latents, theirs.latents) else "no"
            made.append(beside)
        made.append(row)
        print(f"{architecture.name}: {name} is measured", file=sys.stderr)
    plain = made[0]["total s"]
    return [{**each, "ratio": plain / each["total s"]} for each in made]


@contextmanager
def _stock(
    model: RandomModel, parameters: GenerationParameters
) -> Iterator[Callable[[Pause], Looped]]:
    """The published pipeline, with the library switched on for as long as it is needed."""
    pipeline = model.pipeline(model.transformer)
    loop = stock_loop(model, pipeline, parameters)
    if not isinstance(parameters.cache, CacheDit):
        yield loop
        return
    with switched_on(pipeline, parameters.cache, guided=parameters.guided, steps=parameters.steps):
        yield loop


def _measured(
    whose: str, cache: str, model: RandomModel, told: Told, loop: Callable[[Pause], Looped]
) -> tuple[Looped, dict[str, Any]]:
    """Runs a loop twice: what is compiled, loaded or chosen at first use is not timed."""
    gc.collect()
    loop(lambda: None)
    cuda = told.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(told.device)
    clock = Clock(told.device)
    drawn = clock.run(loop)
    return drawn, {
        "model": model.architecture.name,
        "loop": whose,
        "cache": cache,
        "reused": f"{sum(drawn.reused) / told.steps:.0%}",
        "step ms": 1000 * statistics.median(clock.seconds[1:]),
        "total s": sum(clock.seconds),
        "ratio": 0.0,
        "peak GiB": torch.cuda.max_memory_allocated(told.device) / GIB if cuda else "",
        "same bits": "",
    }


def main(arguments: list[str] | None = None) -> int:
    """Measures and writes results/gpu_real_size; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--compile", action="store_true", help="compile the repeated blocks")
    parser.add_argument("--attention-backend", help="diffusers attention backend, such as flash")
    parser.add_argument("--tiny", action="store_true", help="small sizes, on the CPU")
    told = parser.parse_args(arguments)
    if not (told.tiny or torch.cuda.is_available()):
        sys.stderr.write(
            "gpu_real_size: no CUDA device is here, and these models are not for a CPU; run it"
            " where there is one, or with --tiny to see that it works\n"
        )
        return EXIT_UNUSABLE
    set_up_torch(1)
    device = torch.device("cpu" if told.tiny else "cuda:0")
    side = 64 if told.tiny else 1024
    run = Told(device, told.steps, side, told.attention_backend, told.compile)
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    measured: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(open_store("memory:", seal=seal, ttl_seconds=3600)) as store,
    ):
        for name in told.model:
            architecture = ARCHITECTURES[name]
            if told.tiny:
                architecture = tiny(architecture)
            try:
                measured += rows(architecture, run, Path(folder), store)
            except ConfigurationError as error:
                sys.stderr.write(f"gpu_real_size: {error}\n")
                return EXIT_UNUSABLE
    _report(measured, run, publish=not told.tiny)
    return 0


def _report(measured: list[Row], run: Told, *, publish: bool) -> None:
    cuda = run.device.type == "cuda"
    facts = {
        "side": run.side,
        "steps": run.steps,
        "attention": run.attention_backend or "diffusers' default",
        "compiled": "yes" if run.compiled else "no",
        "device": torch.cuda.get_device_name(run.device) if cuda else "a CPU",
    }
    notes = [each.format(**facts) for each in NOTES]
    if publish:
        print(write("gpu_real_size", "Real sizes on a GPU", measured, notes))
    else:
        print(page("Small sizes, to see that it works", measured, notes))


if __name__ == "__main__":
    sys.exit(main())
