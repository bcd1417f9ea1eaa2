"""Wan's denoising loop, one step at a time, by the expert for its noise level.

Shapes: C latent channels; T latent frames; H, W latent sides; L prompt tokens; D prompt width. The
batch is always one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

from services.model_families.wan.spec import (
    PROMPT_TOKENS,
    LatentGrid,
    boundary_ratio,
    video_options,
)
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module, load_part
from services.model_ports.blocks import Arguments, Block, BlockLists, SequenceSplit, TokenShare
from services.model_ports.forwards import Rows
from services.model_ports.stages import Tensors
from services.numerics.conditioning import by_branch, prompt_shapes, take_conditioning
from services.numerics.denoising import ScheduledState, classifier_free, extrapolated, guided_step
from services.numerics.schedules import Schedule, check_schedule
from triptych.domain.generation import GenerationParameters


@dataclass(frozen=True, slots=True)
class Expert:
    """One of the two transformers, and how closely it is to follow the prompt."""

    transformer: WanTransformer3DModel
    guidance_scale: float


@dataclass(slots=True)
class WanState(ScheduledState):
    """One request inside the loop; latents are float32 [1, C, T, H, W].

    Attributes:
        prompts: conditioning of each guidance branch [1, L, D].
        high_noise, low_noise: the experts as this request uses them.
        boundary: the timestep from which on the one for high noise works.
    """

    prompts: Mapping[str, torch.Tensor]
    high_noise: Expert
    low_noise: Expert
    boundary: float

    @property
    def noisy_steps(self) -> int:
        """How many steps the expert for high noise takes; the first ones."""
        return int((self.schedule.timesteps >= self.boundary).sum())

    @property
    def steps_by_component(self) -> Mapping[str, int]:
        """How many of the request's steps each transformer takes."""
        noisy = self.noisy_steps
        return {"transformer": noisy, "transformer_2": self.total_steps - noisy}

    def foreseen(self) -> Self:
        """Of the middle frame alone [1, C, 1, H, W]: the others are not looked at."""
        # `super()` does not know the class that `slots` makes anew.
        whole = ScheduledState.foreseen(self)
        middle = whole.latents.shape[2] // 2
        return replace(whole, latents=whole.latents[:, :, middle : middle + 1])


class WanDenoiser:
    """The published loop, bit for bit, with all that belongs to a request in its state."""

    def __init__(
        self,
        pipeline: WanPipeline,
        scheduler: UniPCMultistepScheduler,
        grid: LatentGrid,
        device: torch.device,
    ) -> None:
        self._pipeline = pipeline
        # Without its VAE the pipeline guesses.
        pipeline.vae_scale_factor_spatial = grid.pixels
        pipeline.vae_scale_factor_temporal = grid.frames
        self._scheduler = scheduler
        self._device = device
        self._boundary = pipeline.config.boundary_ratio * scheduler.config.num_train_timesteps

    @property
    def block_lists(self) -> BlockLists:
        """Where each transformer keeps its blocks."""
        split = SequenceSplit(_shared, prompt=False, every_key=("attn2",))
        return BlockLists(("blocks",), _signal, returns="hidden", split=split)

    @property
    def rows(self) -> Rows:
        """How forwards of several requests become one."""
        return Rows()

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """Both transformers."""
        return {
            "transformer": self._pipeline.transformer,
            "transformer_2": self._pipeline.transformer_2,
        }

    @torch.no_grad()
    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> WanState:
        """Draws the noise on the host, so that a seed means the same on every device.

        Args:
            parameters: effective values.
            conditioning: what WanEncoder.encode gave for them; copied.

        Raises:
            TriptychError: the conditioning does not go with the parameters or this model.
        """
        transformer = self._pipeline.transformer
        shapes = prompt_shapes(parameters, (1, PROMPT_TOKENS, transformer.config.text_dim))
        taken = take_conditioning(conditioning, shapes, transformer.dtype, self._device)
        video = video_options(parameters)
        # In float32 whatever the transformers compute in: the solver's small steps add up.
        latents = self._pipeline.prepare_latents(
            1,
            transformer.config.in_channels,
            parameters.height,
            parameters.width,
            video.num_frames,
            torch.float32,
            self._device,
            torch.Generator("cpu").manual_seed(parameters.seed),
        )
        prompts = by_branch(taken)
        return WanState(
            latents=latents,
            schedule=Schedule(self._scheduler, parameters.steps, self._device),
            branch_names=tuple(prompts),
            prompts=prompts,
            high_noise=Expert(transformer, parameters.guidance_scale),
            low_noise=Expert(self._pipeline.transformer_2, video.low_noise_guidance_scale),
            boundary=self._boundary,
        )

    def step(self, state: WanState) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        noisy = state.schedule.timestep >= state.boundary
        expert = state.high_noise if noisy else state.low_noise
        guide = partial(extrapolated, scale=expert.guidance_scale)
        guided_step(state, partial(_velocity, expert, state), classifier_free(guide))

    @torch.no_grad()
    def finish(self, state: WanState) -> Tensors:
        """Returns `latents` float32 [1, C, T, H, W], normalised as the transformers see them."""
        return {"latents": state.latents}


def _signal(block: Block, arguments: Arguments) -> torch.Tensor:
    shift, scale, *_ = (block.scale_shift_table + arguments["temb"].float()).chunk(6, dim=1)
    hidden = arguments["hidden_states"]
    modulated = block.norm1(hidden.float()) * (1 + scale) + shift
    assert isinstance(modulated, torch.Tensor)
    return modulated


def _shared(arguments: Arguments, share: TokenShare) -> Mapping[str, Any]:
    return {"rotary_emb": tuple(share.of(each, 1) for each in arguments["rotary_emb"])}


def _velocity(expert: Expert, state: WanState, branch: str) -> torch.Tensor:
    (velocity,) = state.acceleration.run(
        expert.transformer,
        branch,
        hidden_states=state.latents.to(expert.transformer.dtype),
        timestep=state.schedule.timestep.expand(1),
        encoder_hidden_states=state.prompts[branch],
        return_dict=False,
    )
    assert isinstance(velocity, torch.Tensor)
    return velocity


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> WanDenoiser:
    """Loads both transformers and the scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    scheduler = load_part(UniPCMultistepScheduler, directory, "scheduler")
    check_schedule(directory, scheduler)
    high_noise, low_noise = (
        load_module(WanTransformer3DModel, directory, subfolder, dtype, device)
        for subfolder in ("transformer", "transformer_2")
    )
    pipeline = WanPipeline(
        transformer=high_noise,
        transformer_2=low_noise,
        boundary_ratio=boundary_ratio(directory),
        scheduler=None,
        vae=None,
        text_encoder=None,
        tokenizer=None,
    )
    return WanDenoiser(pipeline, scheduler, LatentGrid.of(directory), device)
