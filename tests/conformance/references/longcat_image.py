from typing import Any

import torch
from diffusers import LongCatImagePipeline

from tests.conformance.references import Drawn, Reference
from triptych.domain.generation import GenerationParameters


def _draw(pipeline: LongCatImagePipeline, parameters: GenerationParameters) -> Drawn:
    def call(output_type: str) -> Any:
        return pipeline(
            prompt=parameters.prompt,
            negative_prompt=parameters.negative_prompt,
            guidance_scale=parameters.guidance_scale,
            width=parameters.width,
            height=parameters.height,
            num_inference_steps=parameters.steps,
            generator=torch.Generator("cpu").manual_seed(parameters.seed),
            enable_prompt_rewrite=False,
            output_type=output_type,
        ).images

    # It calls nobody between steps: the latents take a drawing of their own.
    latents = pipeline._unpack_latents(
        call("latent"), parameters.height, parameters.width, pipeline.vae_scale_factor
    )
    (picture,) = call("pil")
    return Drawn(latents, picture.tobytes())


REFERENCE = Reference(
    model="longcat-image",
    pipeline=LongCatImagePipeline,
    cases=[
        {"width": 96, "height": 64, "steps": 3},
        {"width": 64, "height": 96, "steps": 2, "negative_prompt": 'no "grey" letters'},
        {"width": 64, "height": 64, "steps": 1, "guidance_scale": 1.0, "seed": 2**63 - 1},
        {"width": 32, "height": 48, "steps": 2, "prompt": "Ein 🟠 {don't} <|im_end|> “abc” % \\n"},
    ],
    draw=_draw,
)
