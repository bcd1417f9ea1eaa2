"""Qwen-Image's denoising loop, one step at a time.

Shapes: C latent channels; H, W latent sides; N = H/2 * W/2 packed tokens; L prompt tokens; D prompt
width. The batch is always one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from services.domain.generation import GenerationParameters
from services.model_api.conditioning import prompt_shapes, take_conditioning
from services.model_api.directory import ModelDirectory
from services.model_api.modules import load_module
from services.model_api.scheduled_state import ScheduledState
from services.model_api.schedules import Schedule, load_flow_scheduler
from services.model_api.stages import Tensors
from services.model_families.qwen_image.spec import vae_scale_factor


@dataclass(slots=True)
class QwenImageState(ScheduledState):
    """One request inside the loop; latents are packed [1, N, 4C].

    Attributes:
        prompt: conditioning of the wanted branch [1, L, D].
        negative_prompt: that of the unwanted branch [1, L', D]; None without guidance.
        grid: frames, rows and columns of tokens.
    """

    prompt: torch.Tensor
    negative_prompt: torch.Tensor | None
    guidance_scale: float
    grid: tuple[int, int, int]


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
        self._pipeline = QwenImagePipeline(
            transformer=transformer, scheduler=None, vae=None, text_encoder=None, tokenizer=None
        )
        # Without its VAE the pipeline guesses.
        self._pipeline.vae_scale_factor = scale_factor

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
        config, dtype = self._transformer.config, self._transformer.dtype
        shapes = prompt_shapes(parameters, (1, None, config.joint_attention_dim))
        taken = take_conditioning(conditioning, shapes, dtype, self._device)
        latents = self._pipeline.prepare_latents(
            1,
            config.in_channels // 4,
            parameters.height,
            parameters.width,
            dtype,
            self._device,
            torch.Generator("cpu").manual_seed(parameters.seed),
        )
        patch_side = self._scale_factor * 2
        return QwenImageState(
            latents=latents,
            schedule=Schedule.shifted(
                self._scheduler, parameters.steps, self._device, tokens=latents.shape[1]
            ),
            prompt=taken["prompt_embeds"],
            negative_prompt=taken.get("negative_prompt_embeds"),
            guidance_scale=parameters.guidance_scale,
            grid=(1, parameters.height // patch_side, parameters.width // patch_side),
        )

    @torch.no_grad()
    def step(self, state: QwenImageState) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        velocity = self._velocity(state, state.prompt)
        if state.negative_prompt is not None:
            unwanted = self._velocity(state, state.negative_prompt)
            velocity = _guide(velocity, unwanted, state.guidance_scale)
        state.latents = state.schedule.advance(velocity, state.latents)

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

    def _velocity(self, state: QwenImageState, prompt: torch.Tensor) -> torch.Tensor:
        latents = state.latents
        (velocity,) = self._transformer(
            hidden_states=latents,
            timestep=state.schedule.timestep.expand(1).to(latents.dtype) / 1000,
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
    directory.refuse("transformer", "guidance_embeds", "guidance is not distilled here")
    scheduler = load_flow_scheduler(directory)
    transformer = load_module(QwenImageTransformer2DModel, directory, "transformer", dtype, device)
    return QwenImageDenoiser(transformer, scheduler, vae_scale_factor(directory), device)
