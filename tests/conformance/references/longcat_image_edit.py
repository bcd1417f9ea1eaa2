from typing import Any

import torch
from diffusers import LongCatImageEditPipeline

from tests.conformance.pictures import pictures_of
from tests.conformance.references import Drawn, Reference
from triptych.domain.generation import GenerationParameters


def _draw(pipeline: LongCatImageEditPipeline, parameters: GenerationParameters) -> Drawn:
    (image,) = pictures_of(parameters)

    def call(output_type: str) -> Any:
        return pipeline(
            # As the library's own load_image opens pictures.
            image=image.convert("RGB"),
            prompt=parameters.prompt,
            negative_prompt=parameters.negative_prompt,
            guidance_scale=parameters.guidance_scale,
            num_inference_steps=parameters.steps,
            generator=torch.Generator("cpu").manual_seed(parameters.seed),
            output_type=output_type,
        ).images

    # It calls nobody between steps: the latents take a drawing of their own.
    latents = pipeline._unpack_latents(
        call("latent"), parameters.height, parameters.width, pipeline.vae_scale_factor
    )
    (picture,) = call("pil")
    return Drawn(latents, picture.tobytes())


REFERENCE = Reference(
    model="longcat-image-edit",
    pipeline=LongCatImageEditPipeline,
    cases=[
        {"steps": 3},
        {"images": [1], "steps": 2, "negative_prompt": 'no "grey" letters'},
        {"images": [2], "steps": 1, "guidance_scale": 1.0, "seed": 2**63 - 1},
        {"steps": 2, "prompt": "Ein 🟠 {don't} <|im_end|> “abc” % \\n"},
    ],
    draw=_draw,
    small={"steps": 2},
)
