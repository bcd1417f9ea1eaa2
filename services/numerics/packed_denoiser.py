"""Denoising loops over latents that a transformer reads as tokens, two by two packed into one.

Shapes: N packed tokens of 4C values; M packed tokens of input pictures; L prompt tokens of D
values. The batch is always one.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ModelMixin

from services.model_ports.blocks import (
    BlockLists,
    SequenceSplit,
    adaptive_norm_signal,
    joint_rotary,
)
from services.model_ports.forwards import Rows
from services.model_ports.stages import Tensors
from services.numerics.conditioning import Shape, by_branch, prompt_shapes, take_conditioning
from services.numerics.denoising import ScheduledState, classifier_free, extrapolated, guided_step
from services.numerics.schedules import Schedule
from triptych.domain.generation import GenerationParameters


class PackingPipeline(Protocol):
    """What published pipelines of this kind have."""

    vae_scale_factor: int
    transformer: ModelMixin

    def prepare_latents(
        self,
        batch_size: int,
        num_channels_latents: int,
        height: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws packed noise, and lays out the positions of its tokens."""
        ...

    def _unpack_latents(
        self, latents: torch.Tensor, height: int, width: int, vae_scale_factor: int
    ) -> torch.Tensor: ...


@dataclass(slots=True)
class PackedState(ScheduledState):
    """One request inside the loop; latents are packed [1, N, 4C].

    Attributes:
        picture_positions: of the latents' tokens [N, 3], and of input pictures' after them.
        prompts: conditioning of each guidance branch [1, L, D].
        prompt_positions: of the prompt's tokens [L, 3].
        size: width and height in pixels.
    """

    picture_positions: torch.Tensor
    prompts: Mapping[str, torch.Tensor]
    prompt_positions: torch.Tensor
    size: tuple[int, int]


class PackedLatents:
    """Draws and unpacks as a published pipeline does.

    Args:
        pipeline: with its transformer and no other component.
        scale_factor: pixels per latent, on each side.
        device: where the latents are.
    """

    def __init__(self, pipeline: PackingPipeline, scale_factor: int, device: torch.device) -> None:
        self._pipeline = pipeline
        # Without its VAE the pipeline guesses.
        pipeline.vae_scale_factor = scale_factor
        self._device = device

    def draw(self, parameters: GenerationParameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Noise [1, N, 4C] and its tokens' positions [N, 3].

        It is drawn on the host, so that a seed means the same on every device.
        """
        transformer = self._pipeline.transformer
        return self._pipeline.prepare_latents(
            1,
            transformer.config.in_channels // 4,
            parameters.height,
            parameters.width,
            transformer.dtype,
            self._device,
            torch.Generator("cpu").manual_seed(parameters.seed),
        )

    def unpack(self, state: PackedState) -> Tensors:
        """`latents` [1, C, H, W], normalised as the transformer sees them."""
        width, height = state.size
        latents = self._pipeline._unpack_latents(  # noqa: SLF001 — imported rather than copied
            state.latents, height, width, self._pipeline.vae_scale_factor
        )
        return {"latents": latents}


@dataclass(slots=True)
class GuidedPackedState(PackedState):
    """One request inside the loop.

    Attributes:
        images: packed latents of the input pictures [1, M, 4C], whose positions follow those of
            the picture; None without any.
    """

    guidance_scale: float
    images: torch.Tensor | None


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
        prompts = by_branch(taken)
        return GuidedPackedState(
            latents=latents,
            schedule=Schedule.shifted(
                self._scheduler, parameters.steps, self._device, tokens=latents.shape[1]
            ),
            branch_names=tuple(prompts),
            picture_positions=positions,
            prompts=prompts,
            prompt_positions=self.prompt_positions(taken["prompt_embeds"]),
            size=(parameters.width, parameters.height),
            guidance_scale=parameters.guidance_scale,
            images=images,
        )

    def step(self, state: GuidedPackedState) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        guide = partial(self.guide, scale=state.guidance_scale)
        guided_step(state, partial(self._velocity, state), classifier_free(guide))

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
        return extrapolated(wanted, unwanted, scale)

    def _velocity(self, state: GuidedPackedState, branch: str) -> torch.Tensor:
        latents, images = state.latents, state.images
        (velocity,) = state.acceleration.run(
            self._transformer,
            branch,
            hidden_states=latents if images is None else torch.cat([latents, images], dim=1),
            timestep=state.schedule.timestep.expand(1).to(latents.dtype) / 1000,
            encoder_hidden_states=state.prompts[branch],
            txt_ids=state.prompt_positions,
            img_ids=state.picture_positions,
            return_dict=False,
        )
        assert isinstance(velocity, torch.Tensor)
        return velocity[:, : latents.shape[1]]
