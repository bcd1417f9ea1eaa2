"""Z-Image's denoising loop, one step at a time.

Shapes: C latent channels; H, W latent sides; L prompt tokens; D prompt width. The batch is always one.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from diffusers.pipelines.z_image.pipeline_z_image import (
    calculate_shift,
    get_default_z_image_sigmas,
    retrieve_timesteps,
)
from diffusers.utils.torch_utils import randn_tensor

from services.domain.errors import ConfigurationError, TriptychError
from services.domain.generation import GenerationParameters
from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module, load_part
from services.model_api.runtime import wait_for
from services.model_api.stages import Tensors
from services.model_families.z_image.spec import vae_scale_factor

_PROMPT = "prompt_embeds"
_NEGATIVE_PROMPT = "negative_prompt_embeds"


@dataclass(slots=True)
class ZImageState:
    """One request inside the loop.

    Attributes:
        latents: [1, C, H, W], in float32 whatever the model computes in.
        prompts: conditioning [L, D] of the wanted branch and, with guidance, of the unwanted one.
        scheduler: this request's own, since it counts steps.
        timesteps: one per step, 1000 to 0.
        sigmas: one per step, on the host, so that reading one never waits for the device.
    """

    latents: torch.Tensor
    prompts: list[torch.Tensor]
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


class ZImageDenoiser:
    """The published loop, bit for bit, with all that belongs to a request in its state."""

    def __init__(
        self,
        transformer: ZImageTransformer2DModel,
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
    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> ZImageState:
        """Draws the noise on the host, so that a seed means the same on every device.

        Args:
            parameters: effective values.
            conditioning: what ZImageEncoder.encode gave for them; copied.

        Raises:
            TriptychError: the conditioning does not go with the parameters or this model.
        """
        self._check(parameters, conditioning)
        latents = self._noise(parameters)
        scheduler, timesteps = self._schedule(parameters.steps, latents)
        return ZImageState(
            latents=latents,
            prompts=[
                conditioning[name][0].to(self._device, copy=True)
                for name in (_PROMPT, _NEGATIVE_PROMPT)
                if name in conditioning
            ],
            guidance_scale=parameters.guidance_scale,
            scheduler=scheduler,
            timesteps=timesteps,
            sigmas=tuple(scheduler.sigmas[:-1].tolist()),
        )

    @torch.no_grad()
    def step(self, state: ZImageState) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        timestep = state.timesteps[state.completed_steps]
        branches = self._branches(state, timestep)
        velocity = branches[0].float()
        if len(branches) == 2:
            velocity = velocity + state.guidance_scale * (velocity - branches[1].float())
        # The model has one frame where the latents have none, and looks the other way.
        (state.latents,) = state.scheduler.step(
            -velocity.unsqueeze(0).squeeze(2), timestep, state.latents, return_dict=False
        )
        # Progress, timing and cancellation are about steps that are done, not queued.
        wait_for(self._device)
        state.completed_steps += 1

    @torch.no_grad()
    def finish(self, state: ZImageState) -> Tensors:
        """Returns `latents` [1, C, H, W] in float32, normalised as the transformer sees them."""
        return {"latents": state.latents}

    def _branches(self, state: ZImageState, timestep: torch.Tensor) -> list[torch.Tensor]:
        """What the transformer says [C, 1, H, W] for each prompt, all in one forward."""
        latents = state.latents.to(self._transformer.dtype)
        count = len(state.prompts)
        frames = latents.repeat(count, 1, 1, 1).unsqueeze(2)
        (outputs,) = self._transformer(
            list(frames.unbind(dim=0)),
            ((1000 - timestep.expand(1)) / 1000).repeat(count),
            state.prompts,
            return_dict=False,
        )
        assert isinstance(outputs, list)
        return outputs

    def _check(self, parameters: GenerationParameters, conditioning: Tensors) -> None:
        expected = {_PROMPT, _NEGATIVE_PROMPT} if parameters.guided else {_PROMPT}
        if conditioning.keys() != expected:
            raise TriptychError(
                f"conditioning: holds {', '.join(sorted(conditioning))};"
                f" this request needs {', '.join(sorted(expected))}"
            )
        width, dtype = self._transformer.config.cap_feat_dim, self._transformer.dtype
        for name, tensor in conditioning.items():
            match tuple(tensor.shape):
                case (1, tokens, channels) if tokens > 0 and channels == width:
                    pass
                case shape:
                    raise TriptychError(
                        f"conditioning: {name} has shape {shape};"
                        f" this model reads (1, tokens, {width})"
                    )
            if tensor.dtype != dtype:
                raise TriptychError(
                    f"conditioning: {name} is {tensor.dtype}; this model computes in {dtype}"
                )

    def _noise(self, parameters: GenerationParameters) -> torch.Tensor:
        noise = randn_tensor(
            (
                1,
                self._transformer.in_channels,
                parameters.height // self._scale_factor,
                parameters.width // self._scale_factor,
            ),
            generator=torch.Generator("cpu").manual_seed(parameters.seed),
            device=self._device,
            dtype=torch.float32,
        )
        assert isinstance(noise, torch.Tensor)
        return noise

    def _schedule(
        self, steps: int, latents: torch.Tensor
    ) -> tuple[FlowMatchEulerDiscreteScheduler, torch.Tensor]:
        scheduler = copy.deepcopy(self._scheduler)
        rows, columns = latents.shape[-2:]
        shift = calculate_shift(
            (rows // 2) * (columns // 2),
            scheduler.config.get("base_image_seq_len", 256),
            scheduler.config.get("max_image_seq_len", 4096),
            scheduler.config.get("base_shift", 0.5),
            scheduler.config.get("max_shift", 1.15),
        )
        timesteps, _ = retrieve_timesteps(
            scheduler, steps, self._device, sigmas=get_default_z_image_sigmas(steps), mu=shift
        )
        scheduler.set_begin_index(0)
        return scheduler, timesteps


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> ZImageDenoiser:
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
    transformer = load_module(ZImageTransformer2DModel, directory, "transformer", dtype, device)
    return ZImageDenoiser(transformer, scheduler, vae_scale_factor(directory), device)
