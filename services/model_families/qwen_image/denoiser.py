"""Qwen-Image's denoising loop, one step at a time.

Shapes: C latent channels; H, W latent sides; N = H/2 * W/2 packed tokens; L prompt tokens; D prompt
width. The batch is always one.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from diffusers.pipelines.qwenimage.pipeline_qwenimage import calculate_shift, retrieve_timesteps
from diffusers.utils.torch_utils import randn_tensor

from services.domain.errors import ConfigurationError, TriptychError
from services.domain.generation import GenerationParameters
from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module, load_part
from services.model_api.runtime import wait_for
from services.model_api.stages import Tensors
from services.model_families.qwen_image.spec import vae_scale_factor

_PROMPT = "prompt_embeds"
_NEGATIVE_PROMPT = "negative_prompt_embeds"


@dataclass(slots=True)
class QwenImageState:
    """One request inside the loop.

    Attributes:
        latents: packed [1, N, 4C], in the type the model computes in.
        prompt: conditioning of the wanted branch [1, L, D].
        negative_prompt: that of the unwanted branch [1, L', D]; None without guidance.
        scheduler: this request's own, since it counts steps.
        timesteps: one per step, 1000 to 0.
        sigmas: one per step, on the host, so that reading one never waits for the device.
        grid: frames, rows and columns of tokens.
    """

    latents: torch.Tensor
    prompt: torch.Tensor
    negative_prompt: torch.Tensor | None
    guidance_scale: float
    scheduler: FlowMatchEulerDiscreteScheduler
    timesteps: torch.Tensor
    sigmas: tuple[float, ...]
    grid: tuple[int, int, int]
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


class QwenImageDenoiser:
    """The published loop, bit for bit, with all that belongs to a request in its state.

    Gradients are switched off by `no_grad`, as in the published pipeline: a state outlives the call
    that made it, and tensors of `inference_mode` could not be changed outside it.
    """

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel,
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
    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> QwenImageState:
        """Draws the noise on the host, so that a seed means the same on every device.

        Args:
            parameters: effective values.
            conditioning: what QwenImageEncoder.encode gave for them; copied.

        Raises:
            TriptychError: the conditioning does not go with the parameters or this model.
        """
        self._check(parameters, conditioning)
        prompt, *negative = (
            conditioning[name].to(self._device, copy=True)
            for name in (_PROMPT, _NEGATIVE_PROMPT)
            if name in conditioning
        )
        latents = self._noise(parameters, prompt.dtype)
        scheduler, timesteps = self._schedule(parameters.steps, tokens=latents.shape[1])
        patch_side = self._scale_factor * 2
        return QwenImageState(
            latents=latents,
            prompt=prompt,
            negative_prompt=negative[0] if negative else None,
            guidance_scale=parameters.guidance_scale,
            scheduler=scheduler,
            timesteps=timesteps,
            sigmas=tuple(scheduler.sigmas[:-1].tolist()),
            grid=(1, parameters.height // patch_side, parameters.width // patch_side),
        )

    @torch.no_grad()
    def step(self, state: QwenImageState) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        timestep = state.timesteps[state.completed_steps]
        velocity = self._velocity(state, timestep, state.prompt)
        if state.negative_prompt is not None:
            unwanted = self._velocity(state, timestep, state.negative_prompt)
            velocity = _guide(velocity, unwanted, state.guidance_scale)
        (state.latents,) = state.scheduler.step(
            velocity, timestep, state.latents, return_dict=False
        )
        # Progress, timing and cancellation are about steps that are done, not queued.
        wait_for(self._device)
        state.completed_steps += 1

    @torch.no_grad()
    def finish(self, state: QwenImageState) -> Tensors:
        """Returns `latents` [1, C, 1, H, W], normalised as the transformer sees them."""
        _, rows, columns = state.grid
        patch_side = self._scale_factor * 2
        return {
            "latents": QwenImagePipeline._unpack_latents(  # noqa: SLF001 — imported rather than copied
                state.latents, rows * patch_side, columns * patch_side, self._scale_factor
            )
        }

    def _check(self, parameters: GenerationParameters, conditioning: Tensors) -> None:
        expected = {_PROMPT, _NEGATIVE_PROMPT} if parameters.guided else {_PROMPT}
        if conditioning.keys() != expected:
            raise TriptychError(
                f"conditioning: holds {', '.join(sorted(conditioning))};"
                f" this request needs {', '.join(sorted(expected))}"
            )
        width, dtype = self._transformer.config.joint_attention_dim, self._transformer.dtype
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

    def _noise(self, parameters: GenerationParameters, dtype: torch.dtype) -> torch.Tensor:
        channels = self._transformer.config.in_channels // 4
        # Even sides: patches are two by two.
        rows = 2 * (parameters.height // (self._scale_factor * 2))
        columns = 2 * (parameters.width // (self._scale_factor * 2))
        noise = randn_tensor(
            (1, 1, channels, rows, columns),
            generator=torch.Generator("cpu").manual_seed(parameters.seed),
            device=self._device,
            dtype=dtype,
        )
        packed = QwenImagePipeline._pack_latents(noise, 1, channels, rows, columns)  # noqa: SLF001 — as above
        assert isinstance(packed, torch.Tensor)
        return packed

    def _schedule(
        self, steps: int, tokens: int
    ) -> tuple[FlowMatchEulerDiscreteScheduler, torch.Tensor]:
        scheduler = copy.deepcopy(self._scheduler)
        shift = calculate_shift(
            tokens,
            scheduler.config.get("base_image_seq_len", 256),
            scheduler.config.get("max_image_seq_len", 4096),
            scheduler.config.get("base_shift", 0.5),
            scheduler.config.get("max_shift", 1.15),
        )
        sigmas = np.linspace(1.0, 1 / steps, steps)
        timesteps, _ = retrieve_timesteps(scheduler, steps, self._device, sigmas=sigmas, mu=shift)
        scheduler.set_begin_index(0)
        return scheduler, timesteps

    def _velocity(
        self, state: QwenImageState, timestep: torch.Tensor, prompt: torch.Tensor
    ) -> torch.Tensor:
        latents = state.latents
        (velocity,) = self._transformer(
            hidden_states=latents,
            timestep=timestep.expand(latents.shape[0]).to(latents.dtype) / 1000,
            encoder_hidden_states=prompt,
            encoder_hidden_states_mask=None,
            img_shapes=[[state.grid]],
            return_dict=False,
        )
        assert isinstance(velocity, torch.Tensor)
        return velocity


def _guide(wanted: torch.Tensor, unwanted: torch.Tensor, scale: float) -> torch.Tensor:
    combined = unwanted + scale * (wanted - unwanted)
    # Each token keeps the length it has without guidance.
    wanted_length = torch.norm(wanted, dim=-1, keepdim=True)
    combined_length = torch.norm(combined, dim=-1, keepdim=True)
    guided: torch.Tensor = combined * (wanted_length / combined_length)
    return guided


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> QwenImageDenoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    _refuse(directory, "transformer", "guidance_embeds", "guidance is not distilled here")
    _refuse(directory, "scheduler", "stochastic_sampling", "a seed would not decide the picture")
    scheduler = load_part(FlowMatchEulerDiscreteScheduler, directory, "scheduler")
    transformer = load_module(QwenImageTransformer2DModel, directory, "transformer", dtype, device)
    return QwenImageDenoiser(transformer, scheduler, vae_scale_factor(directory), device)


def _refuse(directory: ModelDirectory, subfolder: str, option: str, why: str) -> None:
    if directory.config(subfolder).get(option):
        raise ConfigurationError(f"{directory.path / subfolder}: {option} is true; {why}")
