from diffusers import QwenImageEditPlusPipeline

from tests.conformance.references import Drawn, Reference
from tests.conformance.references.qwen_image_edit import draw_edited
from triptych.domain.generation import GenerationParameters


def _draw(pipeline: QwenImageEditPlusPipeline, parameters: GenerationParameters) -> Drawn:
    return draw_edited(pipeline, parameters, several=True)


REFERENCE = Reference(
    model="qwen-image-edit-2509",
    pipeline=QwenImageEditPlusPipeline,
    cases=[
        {"images": 2, "steps": 3},
        {"images": 3, "width": 96, "height": 64, "steps": 2, "negative_prompt": "grey"},
        {"images": 1, "width": 32, "height": 48, "steps": 2, "guidance_scale": 1.0},
        {"images": 2, "width": 48, "height": 48, "steps": 2, "seed": 2**63 - 1},
    ],
    draw=_draw,
)
