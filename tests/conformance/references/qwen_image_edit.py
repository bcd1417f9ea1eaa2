from typing import Any

from diffusers import QwenImageEditPipeline

from tests.conformance.pictures import pictures_of
from tests.conformance.references import Drawn, Reference, draw_packed
from triptych.domain.generation import GenerationParameters


def draw_edited(pipeline: Any, parameters: GenerationParameters, *, several: bool) -> Drawn:
    # As the library's own load_image opens pictures.
    pictures = [each.convert("RGB") for each in pictures_of(parameters)]
    return draw_packed(
        pipeline,
        parameters,
        image=pictures if several else pictures[0],
        negative_prompt=parameters.negative_prompt,
        true_cfg_scale=parameters.guidance_scale,
    )


def _draw(pipeline: QwenImageEditPipeline, parameters: GenerationParameters) -> Drawn:
    return draw_edited(pipeline, parameters, several=False)


REFERENCE = Reference(
    model="qwen-image-edit",
    pipeline=QwenImageEditPipeline,
    cases=[
        {"steps": 3},
        {"width": 96, "height": 64, "steps": 2, "negative_prompt": "grey"},
        {"width": 32, "height": 48, "steps": 2, "guidance_scale": 1.0, "seed": 2**63 - 1},
        {"width": 48, "height": 48, "steps": 2, "prompt": "Ein 🟠 {rot} <|im_end|> % \\n"},
    ],
    draw=_draw,
)
