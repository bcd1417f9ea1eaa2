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
from services.model_ports.forwards import CONDITIONAL, Rows
from services.model_ports.stages import Tensors
from services.numerics.conditioning import by_branch, prompt_shapes, take_conditioning
from services.numerics.denoising import classifier_free, extrapolated, guided_step
from services.numerics.packed_denoiser import PackedLatents, PackedState
from services.numerics.schedules import Schedule, load_flow_scheduler
from triptych.domain.family_options import FluxOptions
from triptych.domain.generation import GenerationParameters


@dataclass(slots=True)
class FluxState(PackedState):
    """One request inside the loop.

    Attributes:
        summaries: of each guidance branch's prompt [1, P].
        guidance: the distilled scale [1] in float32; None if the transformer takes none.
        true_guidance_scale: by which the branches of the two prompts are combined.
    """

    summaries: Mapping[str, torch.Tensor]
    guidance: torch.Tensor | None
    true_guidance_scale: float


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
        shapes = prompt_shapes(
            parameters,
            (1, PROMPT_TOKENS, config.joint_attention_dim),
            pooled=(1, config.pooled_projection_dim),
        )
        taken = take_conditioning(conditioning, shapes, dtype, self._device)
        prompts, summaries = by_branch(taken), by_branch(taken, "pooled_prompt_embeds")
        # Encodes nothing: given embeddings, it only lays out the positions of their tokens.
        _, _, prompt_positions = self._pipeline.encode_prompt(
            prompt=None,
            device=self._device,
            prompt_embeds=prompts[CONDITIONAL],
            pooled_prompt_embeds=summaries[CONDITIONAL],
        )
        latents, picture_positions = self._packed.draw(parameters)
        return FluxState(
            latents=latents,
            schedule=Schedule.shifted(
                self._scheduler, parameters.steps, self._device, tokens=latents.shape[1]
            ),
            branch_names=tuple(prompts),
            picture_positions=picture_positions,
            prompts=prompts,
            prompt_positions=prompt_positions,
            size=(parameters.width, parameters.height),
            summaries=summaries,
            guidance=self._guidance(parameters.guidance_scale),
            true_guidance_scale=options.true_guidance_scale,
        )

    def step(self, state: FluxState) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        guide = partial(extrapolated, scale=state.true_guidance_scale)
        guided_step(state, partial(self._velocity, state), classifier_free(guide))

    @torch.no_grad()
    def finish(self, state: FluxState) -> Tensors:
        """Returns `latents` [1, C, H, W], normalised as the transformer sees them."""
        return self._packed.unpack(state)

    def _velocity(self, state: FluxState, branch: str) -> torch.Tensor:
        latents = state.latents
        (velocity,) = state.acceleration.run(
            self._transformer,
            branch,
            hidden_states=latents,
            timestep=state.schedule.timestep.expand(1).to(latents.dtype) / 1000,
            guidance=state.guidance,
            pooled_projections=state.summaries[branch],
            encoder_hidden_states=state.prompts[branch],
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
