"""Z-Image's denoising loop, one step at a time.

Shapes: C latent channels; H, W latent sides; L prompt tokens; D prompt width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas
from diffusers.utils.torch_utils import randn_tensor

from services.model_files.configuration import image_scale_factor
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.model_ports.blocks import Arguments, Block, BlockLists, SequenceSplit, TokenShare
from services.model_ports.forwards import Rows
from services.model_ports.stages import Tensors
from services.numerics.conditioning import by_branch, prompt_shapes, take_conditioning
from services.numerics.denoising import ScheduledState, classifier_free, guided_step
from services.numerics.schedules import Schedule, length_shift, load_flow_scheduler
from triptych.domain.generation import GenerationParameters


@dataclass(slots=True)
class ZImageState(ScheduledState):
    """One request inside the loop; latents are [1, C, H, W], in float32 always.

    Attributes:
        prompts: conditioning [L, D] of each guidance branch.
    """

    prompts: Mapping[str, torch.Tensor]
    guidance_scale: float


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
    def block_lists(self) -> BlockLists:
        """Where the transformer keeps its blocks, after those that refine its inputs."""
        return BlockLists(
            ("layers",),
            _signal,
            hidden="x",
            encoder=None,
            returns="hidden",
            mask="attn_mask",
            split=SequenceSplit(_shared, prompt=False),
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
    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> ZImageState:
        """Draws the noise on the host, so that a seed means the same on every device.

        Args:
            parameters: effective values.
            conditioning: what ZImageEncoder.encode gave for them; copied.

        Raises:
            TriptychError: the conditioning does not go with the parameters or this model.
        """
        config, dtype = self._transformer.config, self._transformer.dtype
        shapes = prompt_shapes(parameters, (1, None, config.cap_feat_dim))
        taken = take_conditioning(conditioning, shapes, dtype, self._device)
        rows = parameters.height // self._scale_factor
        columns = parameters.width // self._scale_factor
        prompts = {name: prompt.squeeze(0) for name, prompt in by_branch(taken).items()}
        return ZImageState(
            latents=randn_tensor(
                (1, config.in_channels, rows, columns),
                generator=torch.Generator("cpu").manual_seed(parameters.seed),
                device=self._device,
                dtype=torch.float32,
            ),
            schedule=Schedule(
                self._scheduler,
                parameters.steps,
                self._device,
                sigmas=get_default_z_image_sigmas(parameters.steps),
                mu=length_shift(self._scheduler, (rows // 2) * (columns // 2)),
            ),
            branch_names=tuple(prompts),
            prompts=prompts,
            guidance_scale=parameters.guidance_scale,
        )

    def step(self, state: ZImageState) -> None:
        """Advances the request by one step, and returns when the device has done it."""

        def guide(wanted: torch.Tensor, unwanted: torch.Tensor) -> torch.Tensor:
            return wanted + state.guidance_scale * (wanted - unwanted)

        combine = classifier_free(guide)
        guided_step(
            state,
            lambda name: self._velocities(state, (name,))[0],
            # The transformer's points from noise to picture, the scheduler's the other way.
            lambda velocities: -combine(velocities),
            together=partial(self._velocities, state),
        )

    @torch.no_grad()
    def finish(self, state: ZImageState) -> Tensors:
        """Returns `latents` [1, C, H, W] in float32, normalised as the transformer sees them."""
        return {"latents": state.latents}

    def _velocities(self, state: ZImageState, names: tuple[str, ...]) -> list[torch.Tensor]:
        """One [1, C, H, W] in float32 for each of some branches, all from one forward."""
        # The transformer reads and gives frames [C, 1, H, W].
        latents = state.latents.to(self._transformer.dtype).transpose(0, 1)
        timestep = (1000 - state.schedule.timestep.expand(len(names))) / 1000
        (velocities,) = state.acceleration.run(
            self._transformer,
            names if len(names) > 1 else names[0],
            [latents] * len(names),
            timestep,
            [state.prompts[name] for name in names],
            return_dict=False,
        )
        return [velocity.float().transpose(0, 1) for velocity in velocities]


def _shared(arguments: Arguments, share: TokenShare) -> Mapping[str, Any]:
    # The prompt's tokens follow what is drawn in one sequence.
    return {"freqs_cis": share.of(arguments["freqs_cis"], 1)}


def _signal(block: Block, arguments: Arguments) -> torch.Tensor:
    scale, *_ = block.adaLN_modulation(arguments["adaln_input"]).unsqueeze(1).chunk(4, dim=2)
    modulated = block.attention_norm1(arguments["x"]) * (1.0 + scale)
    assert isinstance(modulated, torch.Tensor)
    return modulated


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> ZImageDenoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    scheduler = load_flow_scheduler(directory)
    transformer = load_module(ZImageTransformer2DModel, directory, "transformer", dtype, device)
    return ZImageDenoiser(transformer, scheduler, image_scale_factor(directory), device)
