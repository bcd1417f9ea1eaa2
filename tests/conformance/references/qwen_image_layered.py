from typing import Any

import torch
from diffusers import QwenImageLayeredPipeline

from tests.conformance.pictures import pictures_of
from tests.conformance.references import Drawn, Reference
from triptych.domain.family_options import LayeredOptions
from triptych.domain.generation import GenerationParameters


def _draw(pipeline: QwenImageLayeredPipeline, parameters: GenerationParameters) -> Drawn:
    options, last = parameters.options, {}
    assert isinstance(options, LayeredOptions)
    assert options.layers is not None
    (picture,) = pictures_of(parameters)

    def keep(_: object, step: int, timestep: object, tensors: dict[str, Any]) -> dict[str, Any]:
        last.update(tensors)
        return tensors

    # What its language model draws comes from the one generator of torch.
    torch.manual_seed(parameters.seed)
    (layers,) = pipeline(
        image=picture.convert("RGBA"),
        prompt=parameters.prompt or None,
        negative_prompt=parameters.negative_prompt,
        true_cfg_scale=parameters.guidance_scale,
        layers=options.layers,
        resolution=options.resolution,
        num_inference_steps=parameters.steps,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
        use_en_prompt=True,
        callback_on_step_end=keep,
    ).images
    latents = pipeline._unpack_latents(
        last["latents"],
        parameters.height,
        parameters.width,
        options.layers,
        pipeline.vae_scale_factor,
    )
    # The first is the composite of the layers, which nobody asked for.
    return Drawn(latents[:, :, 1:], b"".join(each.tobytes() for each in layers))


def _layered(layers: int, **options: object) -> dict[str, object]:
    return {"kind": "layered", "layers": layers, **options}


REFERENCE = Reference(
    model="qwen-image-layered",
    pipeline=QwenImageLayeredPipeline,
    cases=[
        {"steps": 3, "options": _layered(2)},
        {"steps": 2, "options": _layered(1, resolution=1024), "guidance_scale": 1.0},
        {"steps": 2, "options": _layered(3), "negative_prompt": "grey", "seed": 2**63 - 1},
        {"steps": 2, "options": _layered(1, caption_image=True), "prompt": ""},
    ],
    draw=_draw,
    small={"steps": 2, "options": _layered(1)},
)
