"""What previews show, when, and what they cost.

python -m benchmarks.previews [--steps N] [--model DIRECTORY]
"""

import argparse
import io
import statistics
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import SecretStr
from skimage.metrics import peak_signal_noise_ratio

from benchmarks.report import RESULTS, Row, write
from denoiser_service.rank.stage import DenoiseStage
from services.domain.stages import DenoiseRequest, DrawPreviewRequest
from services.domain.tensor_ref import Seal
from services.loaded_models.loading import load_denoiser, load_encoder, load_vae
from services.tensor_store.tensor_store import TensorStore, open_store
from services.torch_setup.runtime import set_up_torch
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationRequest, resolve
from vae_service.preview_stage import PreviewStage

TENANT = "benchmark"
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
    " {prompts} prompts, float32, a preview of 32 x 32 pixels after every step. Previews are"
    " compared with the finished picture, shrunk to their size (each pixel the mean of 4 x 4):"
    " correlation of all their values and PSNR in dB, the median over prompts and the smallest.",
    "On this machine the fit took {fit:.0f} ms, once. A preview cost {rank:.2f} ms in the"
    " denoiser's rank (prediction and storing) and {vae:.2f} ms in the VAE (reading, drawing,"
    " compressing); a step took {step:.1f} ms. Medians.",
    "The picture beside this page has a row per prompt: previews after the steps of the table,"
    " then the finished picture.",
)
ZOOM = 3


@dataclass(frozen=True)
class Drawn:
    """A finished picture, its previews by step, and seconds per step, preview stored, and drawn."""

    picture: Image.Image
    previews: list[Image.Image]
    step_seconds: list[float]
    stored_seconds: list[float]
    drawn_seconds: list[float]


class Painter:
    """The three stages of a model in this process."""

    def __init__(self, model: Path, store: TensorStore) -> None:
        told = (model, None, ElementType.FLOAT32, "cpu")
        self._encoder, self._denoiser = load_encoder(*told), load_denoiser(*told)
        self._vae, self._store = load_vae(*told), store
        self._previews = PreviewStage(self._vae, store)

    def fit(self) -> float:
        """Fits the map; seconds."""
        began = time.perf_counter()
        self._previews.fit()
        return time.perf_counter() - began

    def draw(self, prompt: str, seed: int, steps: int) -> Drawn:
        """One request with a preview after every step."""
        request = GenerationRequest(prompt=prompt, seed=seed, steps=steps, preview_every_steps=1)
        parameters = resolve(request, self._denoiser.loaded.model, lambda: seed)
        request_id = uuid.uuid4().hex
        identity = {"tenant": TENANT, "request_id": request_id}
        stored = self._store.put(dict(self._encoder.model.encode(parameters)), **identity)
        stage = DenoiseStage(self._denoiser, self._store)
        stage.prepare(DenoiseRequest(request_id, TENANT, parameters, stored))
        drawn = Drawn(Image.new("RGB", (1, 1)), [], [], [], [])
        for _ in range(steps):
            began = time.perf_counter()
            stepped = stage.step(request_id)
            seconds = time.perf_counter() - began
            drawn.step_seconds.append(stepped.seconds)
            drawn.stored_seconds.append(seconds - stepped.seconds)
            assert stepped.preview is not None
            began = time.perf_counter()
            asked = DrawPreviewRequest(request_id, TENANT, parameters, stepped.preview)
            preview = self._previews.draw(asked)
            drawn.drawn_seconds.append(time.perf_counter() - began)
            drawn.previews.append(Image.open(io.BytesIO(preview.data)))
        finished = stage.finish(request_id)
        assert finished.latents is not None
        with self._store.get(finished.latents, **identity) as latents:
            (picture,) = self._vae.model.decode(parameters, latents)
        self._store.release_request(TENANT, request_id)
        return Drawn(
            picture, drawn.previews, drawn.step_seconds, drawn.stored_seconds, drawn.drawn_seconds
        )


def shown_steps(steps: int) -> list[int]:
    """The first few, then every fifth of the way."""
    return sorted({1, 2, max(3, steps // 10), *(steps * part // 5 for part in range(1, 6))})


def row(step: int, drawn: Sequence[Drawn]) -> Row:
    """What previews after one step are like."""
    likeness, psnr = [], []
    for each in drawn:
        preview = np.asarray(each.previews[step - 1])
        small = np.asarray(each.picture.resize(preview.shape[1::-1], Image.Resampling.BOX))
        likeness.append(float(np.corrcoef(preview.ravel(), small.ravel())[0, 1]))
        psnr.append(float(peak_signal_noise_ratio(small, preview)))
    return {
        "after step": step,
        "correlation": statistics.median(likeness),
        "correlation, smallest": min(likeness),
        "PSNR": statistics.median(psnr),
        "PSNR, smallest": min(psnr),
    }


def contact_sheet(drawn: Sequence[Drawn], steps: Sequence[int]) -> Image.Image:
    """A row per prompt: previews, then the finished picture."""
    side = drawn[0].previews[0].width * ZOOM
    sheet = Image.new("RGB", (side * (len(steps) + 1), side * len(drawn)))
    for line, each in enumerate(drawn):
        for place, picture in enumerate(
            [*(each.previews[step - 1] for step in steps), each.picture]
        ):
            shrinks = picture.width > side
            how = Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST
            sheet.paste(picture.resize((side, side), how), (place * side, line * side))
    return sheet


def main() -> None:
    """Measures, writes the table and the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--model", type=Path, default=Path("models/demo"))
    told = parser.parse_args()
    set_up_torch(1)
    seal = Seal(SecretStr("a secret of at least 32 characters"))
    with closing(open_store("memory:", seal=seal, ttl_seconds=600)) as store:
        painter = Painter(told.model, store)
        fit = painter.fit()
        drawn = [painter.draw(prompt, seed, told.steps) for seed, prompt in enumerate(PROMPTS)]
    steps = shown_steps(told.steps)
    costs = {
        "rank": _median_ms(each.stored_seconds for each in drawn),
        "vae": _median_ms(each.drawn_seconds for each in drawn),
        "step": _median_ms(each.step_seconds for each in drawn),
    }
    notes = [
        each.format(steps=told.steps, prompts=len(PROMPTS), fit=fit * 1000, **costs)
        for each in NOTES
    ]
    rows = [row(step, drawn) for step in steps]
    print(write("previews", "Previews: what they show and what they cost", rows, notes))
    contact_sheet(drawn, steps).save(RESULTS / "previews.png")


def _median_ms(seconds: Iterable[list[float]]) -> float:
    return 1000 * statistics.median(value for each in seconds for value in each)


if __name__ == "__main__":
    main()
