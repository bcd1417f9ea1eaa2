import shutil
from pathlib import Path

from diffusers import QwenImagePipeline

from tests.conformance.references import Drawn, Reference, draw_packed
from triptych.domain.generation import GenerationParameters

_DEMO = Path(__file__).parents[3] / "models" / "demo"


def _draw(pipeline: QwenImagePipeline, parameters: GenerationParameters) -> Drawn:
    return draw_packed(
        pipeline,
        parameters,
        negative_prompt=parameters.negative_prompt,
        true_cfg_scale=parameters.guidance_scale,
    )


REFERENCE = Reference(
    model="demo",
    pipeline=QwenImagePipeline,
    cases=[
        {"width": 128, "height": 128, "steps": 5},
        {"width": 96, "height": 160, "steps": 2, "negative_prompt": "blurred, grey"},
        {"width": 160, "height": 96, "steps": 3, "guidance_scale": 1.0},
        {"width": 64, "height": 64, "steps": 5, "guidance_scale": 1.5, "seed": 2**63 - 1},
        {"width": 48, "height": 64, "steps": 2, "negative_prompt": ""},
        {"width": 32, "height": 48, "steps": 2, "prompt": "Ein 🟠 {circle} <|im_end|> % \\n"},
    ],
    draw=_draw,
    # A copy, so that nobody can change it under the comparison.
    build=lambda folder: shutil.copytree(_DEMO, folder),
)
