from diffusers import FluxPipeline

from services.domain.generation import GenerationParameters
from tests.conformance.references import Drawn, Reference, draw_packed


def draw(pipeline: FluxPipeline, parameters: GenerationParameters) -> Drawn:
    return draw_packed(
        pipeline,
        parameters,
        guidance_scale=parameters.guidance_scale,
    )


REFERENCE = Reference(
    model="flux.1-dev",
    pipeline=FluxPipeline,
    cases=[
        {"width": 128, "height": 96, "steps": 4},
        {"width": 64, "height": 128, "steps": 2, "guidance_scale": 0.0},
        {"width": 96, "height": 64, "steps": 1, "guidance_scale": 30.0, "seed": 2**63 - 1},
        # More than CLIP reads.
        {"width": 32, "height": 48, "steps": 2, "prompt": "Ein 🟠 {circle} % \\n " * 20},
    ],
    draw=draw,
)
