"""BAGEL has no pipeline in diffusers: it is compared with itself in one process, step by step."""

from itertools import pairwise
from pathlib import Path
from typing import Self

import torch

from services.model_families.bagel import denoiser, encoder, vae
from services.model_families.bagel.context import Context
from services.model_families.bagel.flow_transformer import FlowTransformer
from services.model_files.directory import ModelDirectory
from services.model_ports.encoding import encode_all
from tests.conformance.pictures import pictures_of
from tests.conformance.references import Drawn, Reference
from triptych.domain.family_options import BagelOptions
from triptych.domain.generation import GenerationParameters


class BagelInOneProcess:
    """The model's parts and the published order of what is done with them.

    Args:
        directory: all of the model's files.
        dtype: the type the weights compute in.
    """

    def __init__(self, directory: ModelDirectory, dtype: torch.dtype) -> None:
        device = torch.device("cpu")
        transformer = denoiser.load(directory, dtype, device).components["language_model"]
        assert isinstance(transformer, FlowTransformer)
        self.encoder = encoder.load(directory, dtype, device)
        self.transformer = transformer
        self.vae = vae.load(directory, dtype, device)

    @classmethod
    def from_directory(cls, directory: Path, dtype: torch.dtype) -> Self:
        return cls(ModelDirectory(directory), dtype)

    @torch.no_grad()
    def __call__(self, parameters: GenerationParameters) -> Drawn:
        pictures = pictures_of(parameters)
        read = encode_all(self.encoder.encodings(parameters, pictures))
        prompt, markers = read["prompt_embeds"], read["marker_embeds"]
        # One stream of random numbers: what the image's latents take, the noise does not have.
        stream = torch.Generator().manual_seed(parameters.seed)
        start = Context()
        for picture in pictures:
            latents = self.vae.image_encoding(parameters, 0, picture).tensors()["latents"]
            torch.randn(latents.shape, generator=stream)
            rows, columns = latents.shape[2] // 2, latents.shape[3] // 2
            tokens = torch.nn.functional.unfold(latents, 2, stride=2)
            # From channels outermost to channels innermost.
            patches = tokens.transpose(1, 2).unflatten(2, (16, 4)).transpose(2, 3).flatten(2)
            start = self.transformer.read_latents(start, markers, patches, places(rows, columns))
            start = self.transformer.read_image(start, markers, read["image_embeds"])
        contexts = [self.transformer.read_prompt(start, prompt), start]
        if pictures:
            contexts.append(self.transformer.read_prompt(Context(), prompt))
        latents = self._draw(parameters, contexts, markers, stream)
        (picture,) = self.vae.decode(parameters, {"latents": latents})
        return Drawn(latents, picture.tobytes())

    def _draw(
        self,
        parameters: GenerationParameters,
        contexts: list[Context],
        markers: torch.Tensor,
        stream: torch.Generator,
    ) -> torch.Tensor:
        rows, columns = parameters.height // 16, parameters.width // 16
        where = places(rows, columns)
        noisy = torch.randn(1, rows * columns, 64, generator=stream)
        even = torch.linspace(1, 0, parameters.steps + 1)
        levels = 3.0 * even / (1 + (3.0 - 1) * even)
        options = parameters.options
        assert isinstance(options, BagelOptions)
        for now, later in pairwise(levels):
            guided = bool(
                now > options.guidance_interval_start and now <= options.guidance_interval_end
            )
            velocities = [
                self.transformer(context, markers, noisy, where, now.item())
                for context in (contexts if guided else contexts[:1])
            ]
            velocity = combined(velocities, parameters, options)
            noisy = noisy + (later - now) * velocity
        # From channels innermost to channels outermost.
        tokens = noisy.unflatten(2, (4, 16)).transpose(2, 3).flatten(2).transpose(1, 2)
        size = (parameters.height // 8, parameters.width // 8)
        return torch.nn.functional.fold(tokens, size, 2, stride=2)


def places(rows: int, columns: int) -> torch.Tensor:
    return torch.tensor([row * 64 + column for row in range(rows) for column in range(columns)])


def combined(
    velocities: list[torch.Tensor], parameters: GenerationParameters, options: BagelOptions
) -> torch.Tensor:
    """The published formulas: without guidance by the prompt there is none by the image."""
    wanted, *others = velocities
    text_scale, image_scale = parameters.guidance_scale, options.image_guidance_scale
    assert image_scale is not None
    guided = wanted
    if others and text_scale > 1:
        guided = others[0] + text_scale * (wanted - others[0])
        if parameters.images:
            lengths = torch.norm(wanted, dim=-1, keepdim=True)
            guided_lengths = torch.norm(guided, dim=-1, keepdim=True)
            guided = guided * (lengths / (guided_lengths + 1e-8)).clamp(min=0.0, max=1.0)
        else:
            if image_scale > 1:
                guided = wanted + image_scale * (guided - wanted)
            length = torch.norm(wanted) / (torch.norm(guided) + 1e-8)
            guided = guided * length.clamp(min=0.0, max=1.0)
    if parameters.images and others and text_scale > 1 and image_scale > 1:
        guided = others[1] + image_scale * (guided - others[1])
    return guided


def _draw(pipeline: BagelInOneProcess, parameters: GenerationParameters) -> Drawn:
    return pipeline(parameters)


def _options(**values: float) -> dict[str, object]:
    return {"kind": "bagel", **values}


REFERENCE = Reference(
    model="bagel-7b-mot",
    pipeline=BagelInOneProcess,
    cases=[
        {"width": 64, "height": 96, "steps": 3, "images": 1},
        {"width": 96, "height": 64, "steps": 4},
        {
            "width": 48,
            "height": 64,
            "steps": 2,
            "images": 1,
            "guidance_scale": 1.0,
            "options": _options(image_guidance_scale=2.0, guidance_interval_start=0.0),
        },
        {
            "width": 64,
            "height": 64,
            "steps": 5,
            "guidance_scale": 7.0,
            "options": _options(
                image_guidance_scale=1.0, guidance_interval_start=0.3, guidance_interval_end=0.9
            ),
        },
        {"width": 32, "height": 48, "steps": 1, "guidance_scale": 1.0, "seed": 2**63 - 1},
        {"steps": 2, "images": 1, "seed": 8},
        {"width": 32, "height": 48, "steps": 2, "prompt": "Ein 🟠 {don't} <|im_end|> “abc” % \\n"},
    ],
    draw=_draw,
)
