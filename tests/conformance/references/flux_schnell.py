from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from tests.checkpoints import MODELS
from tests.checkpoints.directory import draw_weights
from tests.conformance.references import Reference
from tests.conformance.references.flux import TRUE, draw


def _build(folder: Path) -> None:
    """FLUX.1-dev with schnell's schedule, and a transformer that takes no guidance scale."""
    MODELS["flux.1-dev"](folder)
    config = FluxTransformer2DModel.load_config(folder / "transformer")
    transformer = FluxTransformer2DModel.from_config(config, guidance_embeds=False)
    draw_weights(transformer, "flux.1-schnell/transformer")
    transformer.save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(folder / "scheduler")


REFERENCE = Reference(
    model="flux.1-schnell",
    pipeline=FluxPipeline,
    cases=[
        {"width": 96, "height": 64},
        {"width": 64, "height": 96, "steps": 1},
        {"width": 64, "height": 48, "steps": 2, "options": TRUE},
    ],
    draw=draw,
    small={"width": 64, "height": 64, "steps": 2, "options": TRUE},
    build=_build,
)
