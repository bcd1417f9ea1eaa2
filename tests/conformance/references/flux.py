from diffusers import FluxPipeline

from tests.conformance.references import Drawn, Reference, draw_packed
from triptych.domain.family_options import FluxOptions
from triptych.domain.generation import GenerationParameters

# Guided by a branch of its own beside the scale that the transformer is told.
TRUE: dict[str, object] = {"kind": "flux", "true_guidance_scale": 3.7}


def draw(pipeline: FluxPipeline, parameters: GenerationParameters) -> Drawn:
    options = parameters.options
    assert isinstance(options, FluxOptions)
    return draw_packed(
        pipeline,
        parameters,
        guidance_scale=parameters.guidance_scale,
        negative_prompt=parameters.negative_prompt,
        true_cfg_scale=options.true_guidance_scale,
    )


REFERENCE = Reference(
    model="flux.1-dev",
    pipeline=FluxPipeline,
    cases=[
        {"width": 128, "height": 96, "steps": 4},
        {"width": 64, "height": 128, "steps": 2, "guidance_scale": 0.0},
        {"width": 64, "height": 48, "steps": 3, "negative_prompt": "grey", "options": TRUE},
        {"width": 96, "height": 64, "steps": 1, "guidance_scale": 30.0, "seed": 2**63 - 1},
        # More than CLIP reads.
        {"width": 32, "height": 48, "steps": 2, "prompt": "Ein 🟠 {circle} % \\n " * 20},
    ],
    draw=draw,
)
