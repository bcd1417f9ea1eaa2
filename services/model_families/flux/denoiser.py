"""FLUX.1's denoising loop, one step at a time.

Shapes: C latent channels; H, W latent sides; N = H/2 * W/2 packed tokens; L prompt tokens; D prompt
width; P width of the prompt's summary. The batch is always one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from services.model_families.flux.spec import PROMPT_TOKENS
from services.model_files.configuration import image_scale_factor
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.model_ports.blocks import (
    BlockLists,
    SequenceSplit,
    adaptive_norm_signal,
    joint_rotary,
)
from services.model_ports.forwards import CONDITIONAL, UNCONDITIONAL, Rows
from services.model_ports.stages import Tensors
from services.numerics.conditioning import take_conditioning
from services.numerics.packed_denoiser import PackedLatents, PackedState
from services.numerics.schedules import Schedule, load_flow_scheduler
from triptych.domain.family_options import FluxOptions
from triptych.domain.generation import GenerationParameters


@dataclass(slots=True)
class FluxState(PackedState):
    """One request inside the loop.

    Attributes:
        summary: of the prompt [1, P].
        negative: the negative prompt [1, L, D] and its summary [1, P]; None without true guidance.
        guidance: the distilled scale [1] in float32; None if the transformer takes none.
        true_guidance_scale: by which the branches of the two prompts are combined.
    """

    summary: torch.Tensor
    negative: tuple[torch.Tensor, torch.Tensor] | None
    guidance: torch.Tensor | None
    true_guidance_scale: float

    @property
    def branch_count(self) -> int:
        """How many guidance branches its steps have."""
        return 1 if self.negative is None else 2


class FluxDenoiser:
    """The published loop, bit for bit, with all that belongs to a request in its state."""

    def __init__(
        self,
        transformer: FluxTransformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        scale_factor: int,
        device: torch.device,
    ) -> None:
        self._transformer = transformer
        self._scheduler = scheduler
        self._device = device
        self._pipeline = FluxPipeline(
            transformer=transformer,
            scheduler=None,
            vae=None,
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
        )
        self._packed = PackedLatents(self._pipeline, scale_factor, device)

    @property
    def block_lists(self) -> BlockLists:
        """Where the transformer keeps its blocks."""
        return BlockLists(
            ("transformer_blocks", "single_transformer_blocks"),
            adaptive_norm_signal,
            joined=True,
            split=SequenceSplit(joint_rotary),
        )

    @property
    def rows(self) -> Rows:
        """How forwards of several requests become one."""
        return Rows(shared=frozenset({"txt_ids", "img_ids"}))

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The transformer."""
        return {"transformer": self._transformer}

    @torch.no_grad()
    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> FluxState:
        """Draws the noise and lays out the schedule.

        Args:
            parameters: effective values.
            conditioning: what FluxEncoder.encode gave for them; copied.

        Raises:
            TriptychError: the conditioning does not go with the parameters or this model.
        """
        config, dtype = self._transformer.config, self._transformer.dtype
        options = parameters.options
        assert isinstance(options, FluxOptions)
        assert options.true_guidance_scale is not None
        shapes = {
            "prompt_embeds": (1, PROMPT_TOKENS, config.joint_attention_dim),
            "pooled_prompt_embeds": (1, config.pooled_projection_dim),
        }
        branches = ("", "negative_") if parameters.guided else ("",)
        expected = {branch + name: shape for branch in branches for name, shape in shapes.items()}
        taken = take_conditioning(conditioning, expected, dtype, self._device)
        # Encodes nothing: given embeddings, it only lays out the positions of their tokens.
        prompt, summary, prompt_positions = self._pipeline.encode_prompt(
            prompt=None, device=self._device, **{name: taken[name] for name in shapes}
        )
        negative_prompt, negative_summary = (taken.get(f"negative_{name}") for name in shapes)
        latents, picture_positions = self._packed.draw(parameters)
        return FluxState(
            latents=latents,
            schedule=Schedule.shifted(
                self._scheduler, parameters.steps, self._device, tokens=latents.shape[1]
            ),
            picture_positions=picture_positions,
            prompt=prompt,
            prompt_positions=prompt_positions,
            size=(parameters.width, parameters.height),
            summary=summary,
            negative=None
            if negative_prompt is None or negative_summary is None
            else (negative_prompt, negative_summary),
            guidance=self._guidance(parameters.guidance_scale),
            true_guidance_scale=options.true_guidance_scale,
        )

    @torch.no_grad()
    def step(self, state: FluxState) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        wanted = (state.prompt, state.summary)
        branches = {CONDITIONAL: partial(self._velocity, state, CONDITIONAL, *wanted)}
        if state.negative is not None:
            branches[UNCONDITIONAL] = partial(self._velocity, state, UNCONDITIONAL, *state.negative)
        velocity, *others = state.branches.run(branches)
        for unwanted in others:
            velocity = unwanted + state.true_guidance_scale * (velocity - unwanted)
        state.latents = state.schedule.advance(velocity, state.latents)

    @torch.no_grad()
    def finish(self, state: FluxState) -> Tensors:
        """Returns `latents` [1, C, H, W], normalised as the transformer sees them."""
        return self._packed.unpack(state)

    def _velocity(
        self, state: FluxState, branch: str, prompt: torch.Tensor, summary: torch.Tensor
    ) -> torch.Tensor:
        latents = state.latents
        (velocity,) = state.acceleration.run(
            self._transformer,
            branch,
            hidden_states=latents,
            timestep=state.schedule.timestep.expand(1).to(latents.dtype) / 1000,
            guidance=state.guidance,
            pooled_projections=summary,
            encoder_hidden_states=prompt,
            # The same for both prompts, which have as many tokens.
            txt_ids=state.prompt_positions,
            img_ids=state.picture_positions,
            return_dict=False,
        )
        assert isinstance(velocity, torch.Tensor)
        return velocity

    def _guidance(self, scale: float) -> torch.Tensor | None:
        if not self._transformer.config.guidance_embeds:
            return None
        return torch.full([1], scale, device=self._device, dtype=torch.float32)


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> FluxDenoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    scheduler = load_flow_scheduler(directory)
    transformer = load_module(FluxTransformer2DModel, directory, "transformer", dtype, device)
    return FluxDenoiser(transformer, scheduler, image_scale_factor(directory), device)
