import torch
from diffusers import WanPipeline

from tests.conformance.references import Drawn, Reference
from triptych.domain.family_options import VideoOptions
from triptych.domain.generation import GenerationParameters


def _draw(pipeline: WanPipeline, parameters: GenerationParameters) -> Drawn:
    options = parameters.options
    assert isinstance(options, VideoOptions)
    last: dict[str, torch.Tensor] = {}

    def keep(
        _: object, step: int, timestep: object, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        last.update(tensors)
        return tensors

    (frames,) = pipeline(
        prompt=parameters.prompt,
        negative_prompt=parameters.negative_prompt,
        guidance_scale=parameters.guidance_scale,
        guidance_scale_2=options.low_noise_guidance_scale,
        width=parameters.width,
        height=parameters.height,
        num_frames=options.num_frames,
        num_inference_steps=parameters.steps,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
        callback_on_step_end=keep,
        output_type="pil",
    ).frames
    return Drawn(last["latents"], b"".join(each.tobytes() for each in frames))


def _video(**options: object) -> dict[str, object]:
    return {"kind": "video", **options}


def _frames(**asked: object) -> dict[str, object]:
    # Frames can be compared; a video's pixels are not those that were compressed.
    return {"media_format": "png_archive", "options": _video(num_frames=1), **asked}


REFERENCE = Reference(
    model="wan2.2-t2v-a14b",
    pipeline=WanPipeline,
    cases=[
        _frames(width=64, height=48, steps=4, options=_video(num_frames=5)),
        _frames(
            width=48,
            height=64,
            steps=6,
            negative_prompt="grey &amp; blurred",
            options=_video(num_frames=9, low_noise_guidance_scale=5.5),
        ),
        _frames(width=64, height=32, steps=3, guidance_scale=1.0),
        _frames(width=32, height=32, steps=1, seed=2**63 - 1),
        _frames(width=32, height=48, steps=2, prompt="Ein 🟠  {Kreis}&lt;/s&gt; % \\n"),
    ],
    draw=_draw,
    small=_frames(width=64, height=64, steps=2, options=_video(num_frames=5)),
)
