"""BAGEL's denoising loop, one step at a time.

Shapes: N latent patches of F values; D token width; C latent channels; H, W latent sides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from services.model_families.bagel.checkpoint import (
    language_model_config,
    load_published,
    of_transformer,
)
from services.model_families.bagel.context import Context
from services.model_families.bagel.flow_transformer import FlowTransformer
from services.model_families.bagel.guidance import WITHOUT_IMAGE, WITHOUT_TEXT, Guidance
from services.model_families.bagel.pictures import grid_positions, patches_of, picture_of_patches
from services.model_families.bagel.spec import (
    LATENT_CHANNELS,
    LATENT_PATCH,
    MAX_LATENT_SIDE,
    VAE_SCALE_FACTOR,
    VISION_FIT,
    Size,
    vae_size,
    vision_size,
)
from services.model_files.directory import ModelDirectory
from services.model_ports.blocks import Arguments, Block, BlockLists, SequenceSplit, TokenShare
from services.model_ports.forwards import CONDITIONAL
from services.model_ports.stages import Tensors, image_latents_name
from services.numerics.conditioning import Shape, take_conditioning
from services.numerics.denoising import ScheduledState, guided_step
from services.numerics.schedules import Schedule
from triptych.domain.family_options import BagelOptions
from triptych.domain.generation import GenerationParameters
from triptych.domain.input_image import ImageDescription

# Published with the model: more of the steps where most is noise.
_SHIFT = 3.0


@dataclass(slots=True)
class BagelState(ScheduledState):
    """One request inside the loop; latents are patches [1, N, F], in float32 always.

    Attributes:
        contexts: what each guidance branch reads: all that the request says, the same but the
            prompt, the same but the image.
        markers: embedded start and end of a picture [1, 2, D].
        positions: of the patches [N].
        grid: rows and columns of patches.
        guidance: how the branches are combined.
        interval: guidance is on above the first noise level, up to the second.
    """

    contexts: Mapping[str, Context]
    markers: torch.Tensor
    positions: torch.Tensor
    grid: tuple[int, int]
    guidance: Guidance
    interval: tuple[float, float]

    @property
    def steps_by_component(self) -> Mapping[str, int]:
        """How many of the request's steps the language model takes."""
        return {"language_model": self.total_steps}


class BagelDenoiser:
    """The published loop, with all that belongs to a request in its state."""

    def __init__(self, transformer: FlowTransformer, device: torch.device) -> None:
        self._transformer = transformer
        self._scheduler = FlowMatchEulerDiscreteScheduler(shift=_SHIFT)
        self._device = device

    @property
    def block_lists(self) -> BlockLists:
        """Where the language model keeps its layers."""
        return BlockLists(
            ("language_model.layers",),
            _signal,
            hidden="hidden",
            encoder=None,
            returns="hidden, unread",
            split=SequenceSplit(_shared, context=_context_tokens),
        )

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The language model and what it needs to read and draw latents."""
        return {"language_model": self._transformer}

    @torch.no_grad()
    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> BagelState:
        """Reads the request into contexts, and draws the noise on the host.

        The request's seed decides the noise after the VAE has sampled from it, so that both
        together are one stream, in the published order.

        Args:
            parameters: effective values.
            conditioning: what BagelEncoder.encode gave for them, and the image's latents; copied.

        Raises:
            TriptychError: the conditioning does not go with the parameters or this model.
        """
        options = parameters.options
        assert isinstance(options, BagelOptions)
        guidance = Guidance(
            text_scale=parameters.guidance_scale,
            image_scale=_effective(options.image_guidance_scale),
            editing=bool(parameters.images),
        )
        taken = take_conditioning(
            conditioning, self._shapes(parameters), self._transformer.dtype, self._device
        )
        markers, prompt = taken["marker_embeds"], taken["prompt_embeds"]
        without_text = Context()
        generator = torch.Generator("cpu").manual_seed(parameters.seed)
        for index, _ in enumerate(parameters.images):
            latents = taken[image_latents_name(index)]
            torch.randn(latents.shape, generator=generator)
            without_text = self._read(without_text, markers, latents, taken["image_embeds"])
        contexts = {CONDITIONAL: self._transformer.read_prompt(without_text, prompt)}
        if guidance.needs_without_text:
            contexts[WITHOUT_TEXT] = without_text
        if guidance.needs_without_image:
            contexts[WITHOUT_IMAGE] = self._transformer.read_prompt(Context(), prompt)
        grid = _grid((parameters.width, parameters.height))
        noise = torch.randn(
            1, grid[0] * grid[1], self._transformer.patch_values, generator=generator
        )
        return BagelState(
            latents=noise.to(self._device),
            schedule=Schedule(
                self._scheduler,
                parameters.steps,
                self._device,
                sigmas=torch.linspace(1, 0, parameters.steps + 1)[:-1].numpy(),
            ),
            branch_names=tuple(contexts),
            contexts=contexts,
            markers=markers,
            positions=self._positions(grid),
            grid=grid,
            guidance=guidance,
            interval=(
                _effective(options.guidance_interval_start),
                _effective(options.guidance_interval_end),
            ),
        )

    def step(self, state: BagelState) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        start, end = state.interval
        guided = start < state.sigma <= end
        guided_step(
            state,
            partial(self._velocity, state),
            state.guidance.combine,
            names=None if guided else (CONDITIONAL,),
        )

    @torch.no_grad()
    def finish(self, state: BagelState) -> Tensors:
        """Returns `latents` [1, C, H, W] in float32, normalised as the transformer sees them."""
        return {"latents": picture_of_patches(state.latents, *state.grid, LATENT_PATCH)}

    def _velocity(self, state: BagelState, branch: str) -> torch.Tensor:
        velocity = state.acceleration.run(
            self._transformer,
            branch,
            *(state.contexts[branch], state.markers, state.latents, state.positions, state.sigma),
        )
        assert isinstance(velocity, torch.Tensor)
        return velocity

    def _read(
        self,
        context: Context,
        markers: torch.Tensor,
        latents: torch.Tensor,
        image: torch.Tensor,
    ) -> Context:
        """Goes on with an input image: first as the VAE, then as the vision tower sees it."""
        grid = latents.shape[2] // LATENT_PATCH, latents.shape[3] // LATENT_PATCH
        patches, positions = patches_of(latents, LATENT_PATCH), self._positions(grid)
        context = self._transformer.read_latents(context, markers, patches, positions)
        return self._transformer.read_image(context, markers, image)

    def _positions(self, grid: tuple[int, int]) -> torch.Tensor:
        return grid_positions(*grid, MAX_LATENT_SIDE).to(self._device)

    def _shapes(self, parameters: GenerationParameters) -> dict[str, Shape]:
        width = self._transformer.width
        shapes: dict[str, Shape] = {
            "prompt_embeds": (1, None, width),
            "marker_embeds": (1, 2, width),
        }
        for index, image in enumerate(parameters.images):
            shapes["image_embeds"] = (1, _vision_tokens(image), width)
            shapes[image_latents_name(index)] = _latents_shape(image)
        return shapes


def _shared(arguments: Arguments, share: TokenShare) -> Mapping[str, Any]:
    tokens = arguments["rotary"][0].shape[1]
    # The understanding expert's are the first of all.
    left = arguments["understood"] - share.before(tokens)
    return {
        "understood": min(max(left, 0), share.lengths(tokens)[share.index]),
        "rotary": tuple(share.of(each, 1) for each in arguments["rotary"]),
        "context": arguments["context"].mapped(lambda each: share.of(each, 2)),
    }


def _context_tokens(arguments: Arguments) -> list[int]:
    context: Context = arguments["context"]
    return context.lengths


def _signal(_: Block, arguments: Arguments) -> torch.Tensor:
    # What the published coefficients were fitted to: the tokens themselves.
    hidden = arguments["hidden"]
    assert isinstance(hidden, torch.Tensor)
    return hidden


def _grid(size: Size) -> tuple[int, int]:
    """Rows and columns of latent patches of a picture."""
    width, height = size
    patch = VAE_SCALE_FACTOR * LATENT_PATCH
    return height // patch, width // patch


def _vision_tokens(image: ImageDescription) -> int:
    width, height = vision_size(image.width, image.height)
    return (width // VISION_FIT.multiple) * (height // VISION_FIT.multiple)


def _latents_shape(image: ImageDescription) -> Shape:
    width, height = vae_size(image.width, image.height)
    return (1, LATENT_CHANNELS, height // VAE_SCALE_FACTOR, width // VAE_SCALE_FACTOR)


def _effective(value: float | None) -> float:
    """A number in float32, as the noise levels are that it is compared with."""
    assert value is not None
    return torch.tensor(value, dtype=torch.float32).item()


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> BagelDenoiser:
    """Loads the language model and what goes with it.

    Raises:
        ConfigurationError: they cannot be loaded.
    """
    config, patch_values = language_model_config(directory), LATENT_CHANNELS * LATENT_PATCH**2
    transformer = load_published(
        lambda: FlowTransformer(config, patch_values, MAX_LATENT_SIDE),
        directory,
        dtype,
        device,
        of_transformer,
    )
    return BagelDenoiser(transformer, device)
