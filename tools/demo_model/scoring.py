"""Draws the judged prompts with a model directory and tabulates how many come out right."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import QwenImagePipeline
from PIL import Image, ImageDraw

from tools.demo_model.captions import KINDS, Scene, describe
from tools.demo_model.judge import Pixels, Verdict, judge_picture
from tools.demo_model.prompts import FORTY, VARIANTS, hundred_sixty, parse
from tools.demo_model.shapes import IMAGE_SIZE

_BATCH = 8
_TILE_TEXT = 32


@dataclass(frozen=True)
class PromptSet:
    """Prompts that are drawn and judged with the same settings."""

    name: str
    captions: tuple[str, ...]
    steps: int
    guidance: float = 4.0


@dataclass(frozen=True)
class Result:
    """One drawn prompt and the verdict on it."""

    caption: str
    scene: Scene
    pixels: Pixels
    verdict: Verdict


def prompt_sets() -> tuple[PromptSet, ...]:
    """The two sets that decide, and a third that only informs."""
    return (
        PromptSet("40 prompts", FORTY, steps=30),
        PromptSet("160 prompts", tuple(describe(scene) for scene in hundred_sixty()), steps=20),
        PromptSet("16 wordings", VARIANTS, steps=20),
    )


def load_pipeline(model: Path, device: str) -> QwenImagePipeline:
    """Loads a model directory with the stock pipeline, in fp32."""
    pipeline = QwenImagePipeline.from_pretrained(str(model), dtype=torch.float32).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: QwenImagePipeline, prompts: PromptSet, seed: int) -> list[Pixels]:
    """Draws every prompt of a set; prompt i starts from the noise of seed + i."""
    pictures: list[Pixels] = []
    for start in range(0, len(prompts.captions), _BATCH):
        captions = list(prompts.captions[start : start + _BATCH])
        output = pipeline(
            prompt=captions,
            negative_prompt=[" "] * len(captions),
            true_cfg_scale=prompts.guidance,
            num_inference_steps=prompts.steps,
            width=IMAGE_SIZE,
            height=IMAGE_SIZE,
            generator=[
                torch.Generator().manual_seed(seed + start + index)
                for index in range(len(captions))
            ],
        )
        pictures += [np.asarray(image.convert("RGB"), dtype=np.uint8) for image in output.images]
    return pictures


def score(pipeline: QwenImagePipeline, prompts: PromptSet, seed: int) -> list[Result]:
    """Draws and judges a set of prompts."""
    results = []
    for caption, pixels in zip(prompts.captions, draw(pipeline, prompts, seed), strict=True):
        scene = parse(caption)
        results.append(Result(caption, scene, pixels, judge_picture(pixels, scene)))
    return results


def table_header() -> str:
    """The two lines above the rows of `table_row`, in Markdown."""
    columns = ("set", "background", "count", "colour", "shape", "all correct", *KINDS)
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def table_row(prompts: PromptSet, results: Sequence[Result]) -> str:
    """One Markdown row: how many prompts of the set come out right, in part and by kind."""
    verdicts = [result.verdict for result in results]
    parts = [
        sum(getattr(verdict, part) for verdict in verdicts)
        for part in ("background", "count", "colour", "shape", "correct")
    ]
    cells = [f"{prompts.name}, {prompts.steps} steps, CFG {prompts.guidance:g}"]
    cells += [str(part) for part in parts[:-1]]
    cells.append(f"**{parts[-1]}/{len(results)}**")
    for kind in KINDS:
        of_kind = [result.verdict.correct for result in results if result.scene.kind == kind]
        cells.append(f"{sum(of_kind)}/{len(of_kind)}")
    return f"| {' | '.join(cells)} |"


def contact_sheet(results: Sequence[Result], columns: int = 8) -> Image.Image:
    """Tiles the pictures with their captions; an X marks the ones judged wrong."""
    width, height, gap = IMAGE_SIZE, IMAGE_SIZE + _TILE_TEXT, 8
    rows = (len(results) + columns - 1) // columns
    size = (columns * (width + gap) + gap, rows * (height + gap) + gap)
    sheet = Image.new("RGB", size, (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for index, result in enumerate(results):
        x = gap + index % columns * (width + gap)
        y = gap + index // columns * (height + gap)
        sheet.paste(Image.fromarray(result.pixels), (x, y))
        caption = result.caption if result.verdict.correct else f"X {result.caption}"
        lines = textwrap.wrap(caption, 24)[:3]
        pen.text((x, y + IMAGE_SIZE + 1), "\n".join(lines), fill=(0, 0, 0), spacing=0)
    return sheet
