"""Stable Diffusion 3's denoising loop, one step at a time.

Shapes: B branches, the unwanted and the wanted one, or the wanted one alone; C latent channels;
H, W latent sides; L conditioning tokens; D their width; P pooled width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.utils.torch_utils import randn_tensor

from services.model_families.stable_diffusion_3.spec import CONDITIONING_TOKENS
from services.model_files.configuration import image_scale_factor
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.model_ports.blocks import BlockLists, SequenceSplit, adaptive_norm_signal
from services.model_ports.forwards import Rows
from services.model_ports.stages import Tensors
from services.numerics.conditioning import by_branch, prompt_shapes, take_conditioning
from services.numerics.denoising import ScheduledState, classifier_free, extrapolated, guided_step
from services.numerics.schedules import Schedule, length_shift, load_flow_scheduler
from triptych.domain.generation import GenerationParameters


@dataclass(slots=True)
class StableDiffusion3State(ScheduledState):
    """One request inside the loop; latents are [1, C, H, W].

    Attributes:
        prompts: conditioning of all branches [B, L, D].
        pooled_prompts: their pooled conditioning [B, P].
    """

    prompts: torch.Tensor
    pooled_prompts: torch.Tensor
    guidance_scale: float


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
    def block_lists(self) -> BlockLists:
        """Where the transformer keeps its blocks."""
        return BlockLists(
            ("transformer_blocks",),
            adaptive_norm_signal,
            forecasts_encoder=False,
            # Positions are in the tokens; some blocks let what is drawn attend to itself as well.
            split=SequenceSplit(lambda _arguments, _share: {}, drawn_only=("attn2",)),
        )

    @property
    def rows(self) -> Rows:
        """How forwards of several requests become one."""
        return Rows()

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
        config, dtype = self._transformer.config, self._transformer.dtype
        shapes = prompt_shapes(
            parameters,
            (1, CONDITIONING_TOKENS, config.joint_attention_dim),
            pooled=(1, config.pooled_projection_dim),
        )
        taken = take_conditioning(conditioning, shapes, dtype, self._device)
        prompts, pooled = by_branch(taken), by_branch(taken, "pooled_prompt_embeds")
        # As published, the unwanted branch is the first row.
        names = tuple(reversed(prompts))
        rows = parameters.height // self._scale_factor
        columns = parameters.width // self._scale_factor
        return StableDiffusion3State(
            latents=randn_tensor(
                (1, config.in_channels, rows, columns),
                generator=torch.Generator("cpu").manual_seed(parameters.seed),
                device=self._device,
                dtype=dtype,
            ),
            schedule=self._schedule(parameters.steps, rows, columns),
            branch_names=names,
            prompts=torch.cat([prompts[name] for name in names]),
            pooled_prompts=torch.cat([pooled[name] for name in names]),
            guidance_scale=parameters.guidance_scale,
        )

    def step(self, state: StableDiffusion3State) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        guide = partial(extrapolated, scale=state.guidance_scale)
        guided_step(
            state,
            lambda name: self._velocities(state, (name,))[0],
            classifier_free(guide),
            together=partial(self._velocities, state),
        )

    @torch.no_grad()
    def finish(self, state: StableDiffusion3State) -> Tensors:
        """Returns `latents` [1, C, H, W], normalised as the transformer sees them."""
        return {"latents": state.latents}

    def _velocities(
        self, state: StableDiffusion3State, names: tuple[str, ...]
    ) -> tuple[torch.Tensor, ...]:
        """One [1, C, H, W] for each of the branches, or for one of them, from one forward."""
        first = state.branch_names.index(names[0])
        rows = slice(first, first + len(names))
        (velocities,) = state.acceleration.run(
            self._transformer,
            names if len(names) > 1 else names[0],
            hidden_states=torch.cat([state.latents] * len(names)),
            timestep=state.schedule.timestep.expand(len(names)),
            encoder_hidden_states=state.prompts[rows],
            pooled_projections=state.pooled_prompts[rows],
            return_dict=False,
        )
        assert isinstance(velocities, torch.Tensor)
        return torch.split(velocities, 1)

    def _schedule(self, steps: int, rows: int, columns: int) -> Schedule:
        # The scheduler chooses the noise levels; what was published shifts them evenly.
        options = {}
        if self._scheduler.config.use_dynamic_shifting:
            patch_size = self._transformer.config.patch_size
            tokens = (rows // patch_size) * (columns // patch_size)
            options["mu"] = length_shift(self._scheduler, tokens)
        return Schedule(self._scheduler, steps, self._device, **options)


def load(
    directory: ModelDirectory, dtype: torch.dtype, device: torch.device
) -> StableDiffusion3Denoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    scheduler = load_flow_scheduler(directory)
    transformer = load_module(SD3Transformer2DModel, directory, "transformer", dtype, device)
    return StableDiffusion3Denoiser(transformer, scheduler, image_scale_factor(directory), device)
