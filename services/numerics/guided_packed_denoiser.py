"""A denoising loop over packed latents, each step guided away from a negative prompt.

Shapes: N packed tokens of 4C values; M packed tokens of input pictures; L prompt tokens of D
values. The batch is always one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from services.model_ports.acceleration import (
    CONDITIONAL,
    UNCONDITIONAL,
    BlockLists,
    adaptive_norm_signal,
)
from services.model_ports.rows import Rows
from services.model_ports.sequence import SequenceSplit, joint_rotary
from services.model_ports.stages import Tensors
from services.numerics.conditioning import Shape, prompt_shapes, take_conditioning
from services.numerics.packed_latents import PackedLatents, PackedState, PackingPipeline
from services.numerics.schedules import Schedule
from triptych.domain.generation import GenerationParameters


@dataclass(slots=True)
class GuidedPackedState(PackedState):
    """One request inside the loop.

    Attributes:
        negative_prompt: conditioning of the unwanted branch [1, L, D]; None without guidance.
        images: packed latents of the input pictures [1, M, 4C], whose positions follow those of
            the picture; None without any.
    """

    negative_prompt: torch.Tensor | None
    guidance_scale: float
    images: torch.Tensor | None

    @property
    def branch_count(self) -> int:
        """How many guidance branches its steps have."""
        return 1 if self.negative_prompt is None else 2


class GuidedPackedDenoiser(ABC):
    """Families say where tokens are, and how the two branches become one velocity.

    Args:
        pipeline: as published, with its transformer and no other component.
        scheduler: as loaded.
        scale_factor: pixels per latent, on each side.
        prompt_tokens: L, to which every prompt is padded.
        device: where the transformer is.
    """

    def __init__(
        self,
        pipeline: PackingPipeline,
        scheduler: FlowMatchEulerDiscreteScheduler,
        scale_factor: int,
        prompt_tokens: int,
        device: torch.device,
    ) -> None:
        self._transformer = pipeline.transformer
        self._packed = PackedLatents(pipeline, scale_factor, device)
        self._scheduler = scheduler
        self._prompt_tokens = prompt_tokens
        self._device = device

    @property
    def block_lists(self) -> BlockLists:
        """Where the transformer keeps its blocks."""
        return BlockLists(
            ("transformer_blocks", "single_transformer_blocks"),
            adaptive_norm_signal,
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
    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> GuidedPackedState:
        """Draws the noise and lays out the schedule.

        Args:
            parameters: effective values.
            conditioning: what the family's encoder, and its VAE for each picture, gave; copied.

        Raises:
            TriptychError: the conditioning does not go with the parameters or this model.
        """
        taken = take_conditioning(
            conditioning, self.shapes(parameters), self._transformer.dtype, self._device
        )
        latents, images, positions = self.lay_out(parameters, taken)
        return GuidedPackedState(
            latents=latents,
            schedule=Schedule.shifted(
                self._scheduler, parameters.steps, self._device, tokens=latents.shape[1]
            ),
            picture_positions=positions,
            prompt=taken["prompt_embeds"],
            prompt_positions=self.prompt_positions(taken["prompt_embeds"]),
            size=(parameters.width, parameters.height),
            negative_prompt=taken.get("negative_prompt_embeds"),
            guidance_scale=parameters.guidance_scale,
            images=images,
        )

    @torch.no_grad()
    def step(self, state: GuidedPackedState) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        branches = {CONDITIONAL: partial(self._velocity, state, CONDITIONAL, state.prompt)}
        if state.negative_prompt is not None:
            branches[UNCONDITIONAL] = partial(
                self._velocity, state, UNCONDITIONAL, state.negative_prompt
            )
        velocity, *others = state.branches.run(branches)
        for unwanted in others:
            velocity = self.guide(velocity, unwanted, state.guidance_scale)
        state.latents = state.schedule.advance(velocity, state.latents)

    @torch.no_grad()
    def finish(self, state: GuidedPackedState) -> Tensors:
        """Returns `latents` [1, C, H, W], normalised as the transformer sees them."""
        return self._packed.unpack(state)

    def shapes(self, parameters: GenerationParameters) -> dict[str, Shape]:
        """The conditioning that a request needs."""
        width = self._transformer.config.joint_attention_dim
        return prompt_shapes(parameters, (1, self._prompt_tokens, width))

    def lay_out(
        self, parameters: GenerationParameters, conditioning: Tensors
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Noise [1, N, 4C], packed input pictures [1, M, 4C], and positions of both [N + M, 3]."""
        latents, positions = self._packed.draw(parameters)
        return latents, None, positions

    @abstractmethod
    def prompt_positions(self, prompt: torch.Tensor) -> torch.Tensor:
        """The positions [L, 3] of a conditioning's tokens, of either branch."""

    def guide(self, wanted: torch.Tensor, unwanted: torch.Tensor, scale: float) -> torch.Tensor:
        """One velocity [1, N, 4C] from those of the two branches."""
        return unwanted + scale * (wanted - unwanted)

    def _velocity(
        self, state: GuidedPackedState, branch: str, prompt: torch.Tensor
    ) -> torch.Tensor:
        latents, images = state.latents, state.images
        (velocity,) = state.acceleration.run(
            self._transformer,
            branch,
            hidden_states=latents if images is None else torch.cat([latents, images], dim=1),
            timestep=state.schedule.timestep.expand(1).to(latents.dtype) / 1000,
            encoder_hidden_states=prompt,
            txt_ids=state.prompt_positions,
            img_ids=state.picture_positions,
            return_dict=False,
        )
        assert isinstance(velocity, torch.Tensor)
        return velocity[:, : latents.shape[1]]
