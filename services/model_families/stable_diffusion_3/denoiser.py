"""Stable Diffusion 3's denoising loop, one step at a time.

Shapes: B branches, the unwanted one first, or the wanted one alone; C latent channels; H, W latent
sides; L conditioning tokens; D their width; P pooled width.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import (
    calculate_shift,
    retrieve_timesteps,
)
from diffusers.utils.torch_utils import randn_tensor

from services.domain.errors import ConfigurationError, TriptychError
from services.domain.generation import GenerationParameters
from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module, load_part
from services.model_api.runtime import wait_for
from services.model_api.stages import Tensors
from services.model_families.stable_diffusion_3.spec import CONDITIONING_TOKENS, vae_scale_factor


@dataclass(slots=True)
class StableDiffusion3State:
    """One request inside the loop.

    Attributes:
        latents: [1, C, H, W], in the type the model computes in.
        prompts: conditioning of all branches [B, L, D].
        pooled_prompts: their pooled conditioning [B, P].
        scheduler: this request's own, since it counts steps.
        timesteps: one per step, 1000 to 0.
        sigmas: one per step, on the host, so that reading one never waits for the device.
    """

    latents: torch.Tensor
    prompts: torch.Tensor
    pooled_prompts: torch.Tensor
    guidance_scale: float
    scheduler: FlowMatchEulerDiscreteScheduler
    timesteps: torch.Tensor
    sigmas: tuple[float, ...]
    completed_steps: int = 0

    @property
    def total_steps(self) -> int:
        """Steps from noise to latents."""
        return len(self.sigmas)

    @property
    def sigma(self) -> float:
        """The noise level that the next step starts from; 0 after the last."""
        return (
            0.0 if self.completed_steps == self.total_steps else self.sigmas[self.completed_steps]
        )


class StableDiffusion3Denoiser:
    """The published loop, bit for bit, with all that belongs to a request in its state."""

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        scale_factor: int,
        device: torch.device,
    ) -> None:
        self._transformer = transformer
        self._scheduler = scheduler
        self._scale_factor = scale_factor
        self._device = device

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The transformer."""
        return {"transformer": self._transformer}

    @torch.no_grad()
    def prepare(
        self, parameters: GenerationParameters, conditioning: Tensors
    ) -> StableDiffusion3State:
        """Draws the noise on the host, so that a seed means the same on every device.

        Args:
            parameters: effective values.
            conditioning: what StableDiffusion3Encoder.encode gave for them; copied.

        Raises:
            TriptychError: the conditioning does not go with the parameters or this model.
        """
        branches = ("negative_", "") if parameters.guided else ("",)
        self._check(conditioning, branches)
        latents = self._noise(parameters)
        scheduler, timesteps = self._schedule(parameters.steps, latents)
        prompts, pooled_prompts = (
            # Copies, even a single one.
            torch.cat([conditioning[branch + name] for branch in branches]).to(self._device)
            for name in ("prompt_embeds", "pooled_prompt_embeds")
        )
        return StableDiffusion3State(
            latents=latents,
            prompts=prompts,
            pooled_prompts=pooled_prompts,
            guidance_scale=parameters.guidance_scale,
            scheduler=scheduler,
            timesteps=timesteps,
            sigmas=tuple(scheduler.sigmas[:-1].tolist()),
        )

    @torch.no_grad()
    def step(self, state: StableDiffusion3State) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        timestep = state.timesteps[state.completed_steps]
        branches = len(state.prompts)
        (velocity,) = self._transformer(
            hidden_states=torch.cat([state.latents] * branches),
            timestep=timestep.expand(branches),
            encoder_hidden_states=state.prompts,
            pooled_projections=state.pooled_prompts,
            return_dict=False,
        )
        if branches == 2:
            unwanted, wanted = velocity.chunk(2)
            velocity = unwanted + state.guidance_scale * (wanted - unwanted)
        (state.latents,) = state.scheduler.step(
            velocity, timestep, state.latents, return_dict=False
        )
        # Progress, timing and cancellation are about steps that are done, not queued.
        wait_for(self._device)
        state.completed_steps += 1

    @torch.no_grad()
    def finish(self, state: StableDiffusion3State) -> Tensors:
        """Returns `latents` [1, C, H, W], normalised as the transformer sees them."""
        return {"latents": state.latents}

    def _check(self, conditioning: Tensors, branches: tuple[str, ...]) -> None:
        config, dtype = self._transformer.config, self._transformer.dtype
        shapes = {
            "prompt_embeds": (1, CONDITIONING_TOKENS, config.joint_attention_dim),
            "pooled_prompt_embeds": (1, config.pooled_projection_dim),
        }
        expected = {branch + name: shape for branch in branches for name, shape in shapes.items()}
        found = {name: tuple(tensor.shape) for name, tensor in conditioning.items()}
        if found != expected:
            raise TriptychError(f"conditioning: is {found}; this request needs {expected}")
        for name, tensor in conditioning.items():
            if tensor.dtype != dtype:
                raise TriptychError(
                    f"conditioning: {name} is {tensor.dtype}; this model computes in {dtype}"
                )

    def _noise(self, parameters: GenerationParameters) -> torch.Tensor:
        noise = randn_tensor(
            (
                1,
                self._transformer.config.in_channels,
                parameters.height // self._scale_factor,
                parameters.width // self._scale_factor,
            ),
            generator=torch.Generator("cpu").manual_seed(parameters.seed),
            device=self._device,
            dtype=self._transformer.dtype,
        )
        assert isinstance(noise, torch.Tensor)
        return noise

    def _schedule(
        self, steps: int, latents: torch.Tensor
    ) -> tuple[FlowMatchEulerDiscreteScheduler, torch.Tensor]:
        scheduler = copy.deepcopy(self._scheduler)
        options = {}
        if scheduler.config.get("use_dynamic_shifting"):
            patch_size = self._transformer.config.patch_size
            rows, columns = latents.shape[-2:]
            options["mu"] = calculate_shift(
                (rows // patch_size) * (columns // patch_size),
                scheduler.config.get("base_image_seq_len", 256),
                scheduler.config.get("max_image_seq_len", 4096),
                scheduler.config.get("base_shift", 0.5),
                scheduler.config.get("max_shift", 1.16),
            )
        timesteps, _ = retrieve_timesteps(scheduler, steps, self._device, **options)
        scheduler.set_begin_index(0)
        return scheduler, timesteps


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> StableDiffusion3Denoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    if directory.config("scheduler").get("stochastic_sampling"):
        raise ConfigurationError(
            f"{directory.path / 'scheduler'}: stochastic_sampling is true;"
            " a seed would not decide the picture"
        )
    scheduler = load_part(FlowMatchEulerDiscreteScheduler, directory, "scheduler")
    transformer = load_module(SD3Transformer2DModel, directory, "transformer", dtype, device)
    return StableDiffusion3Denoiser(transformer, scheduler, vae_scale_factor(directory), device)
