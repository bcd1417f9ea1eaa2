"""The denoising loops of the Qwen-Image line, one step at a time, with or without pictures to edit.

Shapes: C latent channels; H, W latent sides; N packed tokens of what is drawn; M packed tokens of
input pictures; L prompt tokens; D prompt width. The batch is always one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    QwenImageLayeredPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)

from services.model_families.qwen_image.spec import (
    LAYERS,
    NO_PICTURE,
    PATCH_SIZE,
    PICTURE_FIT,
    picture_fit,
    vae_scale_factor,
)
from services.model_files.directory import ModelDirectory
from services.model_files.modules import load_module
from services.model_ports.blocks import Arguments, Block, BlockLists, SequenceSplit, TokenShare
from services.model_ports.forwards import Rows
from services.model_ports.stages import Tensors, image_latents_name
from services.numerics.conditioning import by_branch, prompt_shapes, take_conditioning
from services.numerics.denoising import ScheduledState, classifier_free, extrapolated, guided_step
from services.numerics.schedules import Schedule, load_flow_scheduler
from triptych.domain.generation import GenerationParameters
from triptych.domain.image_fit import ImageFit

Grid = tuple[int, int, int]
"""Frames, rows and columns of tokens."""


@dataclass(slots=True)
class QwenImageState(ScheduledState):
    """One request inside the loop; latents are packed [1, N, 4C].

    Attributes:
        prompts: conditioning of each guidance branch [1, L, D], each of its own L.
        grids: of each frame that is drawn, then of each input picture.
        frames: how many are drawn.
        images: packed latents of the input pictures [1, M, 4C]; None without any.
        size: width and height in pixels.
    """

    prompts: Mapping[str, torch.Tensor]
    guidance_scale: float
    grids: list[Grid]
    frames: int
    images: torch.Tensor | None
    size: tuple[int, int]


class QwenImageDenoiser:
    """The published loop, bit for bit, with all that belongs to a request in its state.

    Gradients are switched off by `no_grad`, as in the published pipeline: a state outlives the call
    that made it, and tensors of `inference_mode` could not be changed outside it.

    Args:
        transformer: the model.
        scheduler: as loaded.
        scale_factor: pixels per latent, on each side.
        device: where the transformer is.
        image_fit: the size that input pictures are scaled to; None for models that take none.
    """

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        scale_factor: int,
        device: torch.device,
        image_fit: ImageFit | None = None,
    ) -> None:
        self._transformer = transformer
        self._scheduler = scheduler
        self._scale_factor = scale_factor
        self._device = device
        self._image_fit = image_fit
        self._pipeline = QwenImagePipeline(
            transformer=transformer, scheduler=None, vae=None, text_encoder=None, tokenizer=None
        )
        # Without its VAE the pipeline guesses.
        self._pipeline.vae_scale_factor = scale_factor

    @property
    def block_lists(self) -> BlockLists:
        """Where the transformer keeps its blocks."""
        return BlockLists(("transformer_blocks",), _signal, split=SequenceSplit(_shared))

    @property
    def rows(self) -> Rows:
        """How forwards of several requests become one."""
        return Rows(padded={"encoder_hidden_states": "encoder_hidden_states_mask"})

    @property
    def components(self) -> Mapping[str, torch.nn.Module]:
        """The transformer."""
        return {"transformer": self._transformer}

    @torch.no_grad()
    def prepare(self, parameters: GenerationParameters, conditioning: Tensors) -> QwenImageState:
        """Draws the noise on the host, so that a seed means the same on every device.

        Args:
            parameters: effective values.
            conditioning: what the family's encoder, and its VAE for each picture, gave; copied.

        Raises:
            TriptychError: the conditioning does not go with the parameters or this model.
        """
        sizes = self.image_sizes(parameters)
        prompts = prompt_shapes(parameters, (1, None, self._transformer.config.joint_attention_dim))
        pictures = {
            image_latents_name(index): self._latent_shape(size) for index, size in enumerate(sizes)
        }
        taken = take_conditioning(
            conditioning, {**prompts, **pictures}, self._transformer.dtype, self._device
        )
        latents, conditioned = self.draw(parameters), by_branch(taken)
        images = [_packed(taken[name]) for name in pictures]
        packed = torch.cat(images, dim=1) if images else None
        size, frames = (parameters.width, parameters.height), self.frames(parameters)
        return QwenImageState(
            latents=latents,
            schedule=self.schedule(parameters, latents, packed),
            branch_names=tuple(conditioned),
            prompts=conditioned,
            guidance_scale=parameters.guidance_scale,
            grids=[self._grid(each) for each in [size] * frames + sizes],
            frames=frames,
            images=packed,
            size=size,
        )

    def step(self, state: QwenImageState) -> None:
        """Advances the request by one step, and returns when the device has done it."""
        guide = partial(self.guide, scale=state.guidance_scale)
        guided_step(state, partial(self._velocity, state), classifier_free(guide))

    @torch.no_grad()
    def finish(self, state: QwenImageState) -> Tensors:
        """Returns `latents` [1, C, 1, H, W], normalised as the transformer sees them."""
        width, height = state.size
        return {
            "latents": QwenImagePipeline._unpack_latents(  # noqa: SLF001 — imported rather than copied
                state.latents, height, width, self._scale_factor
            )
        }

    def image_sizes(self, parameters: GenerationParameters) -> list[tuple[int, int]]:
        """Width and height in pixels that each input picture is scaled to."""
        fit = self._image_fit
        if fit is None:
            return []
        return [fit.size(each.width, each.height) for each in parameters.images]

    def frames(self, parameters: GenerationParameters) -> int:
        """How many pictures of the request's size are drawn together."""
        return 1

    def draw(self, parameters: GenerationParameters) -> torch.Tensor:
        """Packed noise [1, N, 4C]."""
        noise = self._pipeline.prepare_latents(**self.noise(parameters))
        assert isinstance(noise, torch.Tensor)
        return noise

    def noise(self, parameters: GenerationParameters) -> dict[str, Any]:
        """What the published pipelines are told to draw noise."""
        return {
            "batch_size": 1,
            "num_channels_latents": self._transformer.config.in_channels // 4,
            "height": parameters.height,
            "width": parameters.width,
            "dtype": self._transformer.dtype,
            "device": self._device,
            "generator": torch.Generator("cpu").manual_seed(parameters.seed),
        }

    def schedule(
        self,
        parameters: GenerationParameters,
        latents: torch.Tensor,
        images: torch.Tensor | None,
    ) -> Schedule:
        """The noise levels of a request whose packed latents, and pictures, are given."""
        tokens = latents.shape[1]
        return Schedule.shifted(self._scheduler, parameters.steps, self._device, tokens=tokens)

    def guide(self, wanted: torch.Tensor, unwanted: torch.Tensor, scale: float) -> torch.Tensor:
        """One velocity [1, N, 4C] from those of the two branches."""
        combined = extrapolated(wanted, unwanted, scale)
        # Each token keeps the length it has without guidance.
        wanted_length = torch.norm(wanted, dim=-1, keepdim=True)
        combined_length = torch.norm(combined, dim=-1, keepdim=True)
        guided: torch.Tensor = combined * (wanted_length / combined_length)
        return guided

    def model_inputs(self) -> Mapping[str, Any]:
        """Further inputs of the transformer."""
        return {}

    def _velocity(self, state: QwenImageState, branch: str) -> torch.Tensor:
        latents, images = state.latents, state.images
        (velocity,) = state.acceleration.run(
            self._transformer,
            branch,
            hidden_states=latents if images is None else torch.cat([latents, images], dim=1),
            timestep=state.schedule.timestep.expand(1).to(latents.dtype) / 1000,
            encoder_hidden_states=state.prompts[branch],
            encoder_hidden_states_mask=None,
            img_shapes=[state.grids],
            return_dict=False,
            **self.model_inputs(),
        )
        assert isinstance(velocity, torch.Tensor)
        return velocity[:, : latents.shape[1]]

    def _latent_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        width, height = size
        channels = self._transformer.config.in_channels // 4
        return (1, channels, 1, height // self._scale_factor, width // self._scale_factor)

    def _grid(self, size: tuple[int, int]) -> Grid:
        width, height = size
        patch_side = self._scale_factor * PATCH_SIZE
        return (1, height // patch_side, width // patch_side)


def _signal(block: Block, arguments: Arguments) -> torch.Tensor:
    modulation, _ = block.img_mod(arguments["temb"]).chunk(2, dim=-1)
    modulated, _ = block._modulate(  # noqa: SLF001 — the block's own arithmetic
        block.img_norm1(arguments["hidden_states"]), modulation, arguments["modulate_index"]
    )
    assert isinstance(modulated, torch.Tensor)
    return modulated


def _shared(arguments: Arguments, share: TokenShare) -> Mapping[str, Any]:
    drawn, prompt = arguments["image_rotary_emb"]
    modulated = arguments["modulate_index"]
    return {
        "image_rotary_emb": (share.of(drawn, 0), share.of(prompt, 0)),
        "modulate_index": None if modulated is None else share.of(modulated, 1),
    }


def _packed(latents: torch.Tensor) -> torch.Tensor:
    _, channels, _, rows, columns = latents.shape
    packed = QwenImagePipeline._pack_latents(  # noqa: SLF001 — imported rather than copied
        latents, 1, channels, rows, columns
    )
    assert isinstance(packed, torch.Tensor)
    return packed


# Tokens of a picture of 256 x 256 pixels, for which the schedule is not shifted.
_UNSHIFTED_TOKENS = 256


class QwenImageLayeredDenoiser(QwenImageDenoiser):
    """Qwen-Image's loop over all layers at once; the first frame is the composite of the layers."""

    def __init__(
        self,
        transformer: QwenImageTransformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        scale_factor: int,
        device: torch.device,
    ) -> None:
        super().__init__(transformer, scheduler, scale_factor, device)
        self._layered = QwenImageLayeredPipeline(
            transformer=transformer,
            scheduler=None,
            vae=None,
            text_encoder=None,
            tokenizer=None,
            processor=None,
        )
        # Without its VAE the pipeline guesses.
        self._layered.vae_scale_factor = scale_factor

    def image_sizes(self, parameters: GenerationParameters) -> list[tuple[int, int]]:
        fit = picture_fit(parameters)
        return [fit.size(each.width, each.height) for each in parameters.images]

    def frames(self, parameters: GenerationParameters) -> int:
        return parameters.pictures + 1

    def draw(self, parameters: GenerationParameters) -> torch.Tensor:
        noise, _ = self._layered.prepare_latents(
            image=None, layers=parameters.pictures, **self.noise(parameters)
        )
        assert isinstance(noise, torch.Tensor)
        return noise

    def schedule(
        self,
        parameters: GenerationParameters,
        latents: torch.Tensor,
        images: torch.Tensor | None,
    ) -> Schedule:
        """Even noise levels from 1 down to 0, shifted by the tokens of the input picture."""
        assert images is not None
        return Schedule(
            self._scheduler,
            parameters.steps,
            self._device,
            sigmas=np.linspace(1.0, 0, parameters.steps + 1)[:-1],
            mu=(images.shape[1] / _UNSHIFTED_TOKENS) ** 0.5,
        )

    def guide(self, wanted: torch.Tensor, unwanted: torch.Tensor, scale: float) -> torch.Tensor:
        return extrapolated(wanted, unwanted, scale)

    def model_inputs(self) -> Mapping[str, Any]:
        # 0 for pictures with an alpha channel.
        return {"additional_t_cond": torch.zeros(1, dtype=torch.long, device=self._device)}

    @torch.no_grad()
    def finish(self, state: QwenImageState) -> Tensors:
        """Returns `latents` [1, C, layers, H, W], normalised as the transformer sees them."""
        width, height = state.size
        frames = self._layered._unpack_latents(  # noqa: SLF001 — imported rather than copied
            state.latents, height, width, state.frames - 1, self._scale_factor
        )
        # Nobody asked for the composite.
        return {"latents": frames[:, :, 1:].contiguous()}


def load(directory: ModelDirectory, dtype: torch.dtype, device: torch.device) -> QwenImageDenoiser:
    """Loads transformer and scheduler.

    Raises:
        ConfigurationError: they cannot be loaded, or need what this loop does not do.
    """
    directory.refuse("transformer", "guidance_embeds", "guidance is not distilled here")
    scheduler = load_flow_scheduler(directory)
    transformer = load_module(QwenImageTransformer2DModel, directory, "transformer", dtype, device)
    scale_factor = vae_scale_factor(directory)
    if directory.pipeline_class == LAYERS:
        return QwenImageLayeredDenoiser(transformer, scheduler, scale_factor, device)
    fit = None if directory.pipeline_class == NO_PICTURE else PICTURE_FIT
    return QwenImageDenoiser(transformer, scheduler, scale_factor, device, fit)
