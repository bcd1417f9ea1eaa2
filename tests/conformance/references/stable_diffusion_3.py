import torch
from diffusers import StableDiffusion3Pipeline

from tests.conformance.references import Drawn, Reference, draw_with_steps
from triptych.domain.generation import GenerationParameters


def _draw(pipeline: StableDiffusion3Pipeline, parameters: GenerationParameters) -> Drawn:
    picture, latents = draw_with_steps(
        pipeline,
        prompt=parameters.prompt,
        negative_prompt=parameters.negative_prompt,
        guidance_scale=parameters.guidance_scale,
        width=parameters.width,
        height=parameters.height,
        num_inference_steps=parameters.steps,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
    )
    return Drawn(latents, picture.tobytes())


REFERENCE = Reference(
    model="stable-diffusion-3.5-medium",
    pipeline=StableDiffusion3Pipeline,
    cases=[
        {"width": 64, "height": 64, "steps": 4},
        {"width": 96, "height": 32, "steps": 2, "negative_prompt": "blurred, grey"},
        {"width": 48, "height": 80, "steps": 3, "guidance_scale": 1.0},
        {"width": 32, "height": 32, "steps": 1, "guidance_scale": 1.5, "seed": 2**63 - 1},
        {"width": 32, "height": 48, "steps": 2, "guidance_scale": 0.0},
        # Longer than what the CLIPs read, and with what T5's vocabulary does not have.
        {"width": 48, "height": 32, "steps": 2, "prompt": "a 🟠 {circle} </s> % \\n " * 12},
    ],
    draw=_draw,
)
