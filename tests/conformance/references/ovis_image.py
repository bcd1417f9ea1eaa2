from diffusers import OvisImagePipeline

from tests.conformance.references import Drawn, Reference, draw_packed
from triptych.domain.generation import GenerationParameters


def _draw(pipeline: OvisImagePipeline, parameters: GenerationParameters) -> Drawn:
    return draw_packed(
        pipeline,
        parameters,
        negative_prompt=parameters.negative_prompt,
        guidance_scale=parameters.guidance_scale,
    )


REFERENCE = Reference(
    model="ovis-image-7b",
    pipeline=OvisImagePipeline,
    cases=[
        {"width": 128, "height": 96, "steps": 3},
        {"width": 64, "height": 96, "steps": 2, "negative_prompt": "blurred, grey"},
        {"width": 96, "height": 64, "steps": 1, "guidance_scale": 1.0, "seed": 2**63 - 1},
        {"width": 32, "height": 48, "steps": 2, "prompt": "Ein 🟠 {circle} <|im_end|> % \\n"},
    ],
    draw=_draw,
)
