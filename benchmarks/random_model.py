"""Published architectures with random weights: the speed of a model without the model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from pydantic import TypeAdapter

from benchmarks.stock import Pipeline, stock_pipeline
from services.loaded_models.loading import describe_model
from services.loaded_models.stage_model import StageModel
from services.model_families import find_family
from services.model_families.flux.denoiser import FluxDenoiser
from services.model_families.flux.spec import PROMPT_TOKENS
from services.model_families.qwen_image.denoiser import QwenImageDenoiser
from services.model_families.qwen_image.spec import vae_scale_factor
from services.model_files.configuration import image_scale_factor
from services.model_files.directory import ModelDirectory
from services.model_files.modules import components_of
from services.model_ports.stages import DenoiserModel
from services.numerics.schedules import load_flow_scheduler
from services.torch_setup.runtime import element_type
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.model import LoadedModel

Config = Mapping[str, Any]
_QWEN_PROMPT_TOKENS = 64
_REQUESTS = TypeAdapter(GenerationRequest)


def _qwen_denoiser(
    transformer: torch.nn.Module, directory: ModelDirectory, device: torch.device
) -> DenoiserModel:
    scheduler, factor = load_flow_scheduler(directory), vae_scale_factor(directory)
    return QwenImageDenoiser(transformer, scheduler, factor, device)


def _flux_denoiser(
    transformer: torch.nn.Module, directory: ModelDirectory, device: torch.device
) -> DenoiserModel:
    scheduler, factor = load_flow_scheduler(directory), image_scale_factor(directory)
    return FluxDenoiser(transformer, scheduler, factor, device)


@dataclass(frozen=True)
class Architecture:
    """A published model's shape.

    Attributes:
        name: of the model.
        pipeline: its published class.
        transformer: likewise.
        config: of the transformer.
        vae: what of the VAE's configuration says how large latents are.
        scheduler: what of the scheduler's configuration is not the class's default.
        denoiser: ours, around a transformer.
        prompt: shapes of the conditioning by its names, for one branch.
        scale_argument: what the pipeline calls the guidance scale.
        masks_prompts: whether the pipeline wants to know which of the prompt's tokens are padding.
    """

    name: str
    pipeline: type[Any]
    transformer: type[Any]
    config: Config
    vae: Config
    scheduler: Config
    denoiser: Callable[[torch.nn.Module, ModelDirectory, torch.device], DenoiserModel]
    prompt: Callable[[Config], Mapping[str, tuple[int, ...]]]
    scale_argument: str
    masks_prompts: bool

    def resized(self, **config: object) -> "Architecture":
        """The same with other entries in the transformer's configuration."""
        return replace(self, config={**self.config, **config})


QWEN_IMAGE = Architecture(
    name="qwen-image",
    pipeline=QwenImagePipeline,
    transformer=QwenImageTransformer2DModel,
    config={
        "in_channels": 64,
        "out_channels": 16,
        "num_layers": 60,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "joint_attention_dim": 3584,
        "guidance_embeds": False,
    },
    vae={"temperal_downsample": [False, True, True]},
    scheduler={"max_shift": 0.9, "max_image_seq_len": 8192, "shift_terminal": 0.02},
    denoiser=_qwen_denoiser,
    prompt=lambda config: {
        "prompt_embeds": (1, _QWEN_PROMPT_TOKENS, config["joint_attention_dim"])
    },
    scale_argument="true_cfg_scale",
    masks_prompts=True,
)
FLUX_DEV = Architecture(
    name="flux.1-dev",
    pipeline=FluxPipeline,
    transformer=FluxTransformer2DModel,
    config={
        "in_channels": 64,
        "num_layers": 19,
        "num_single_layers": 38,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
        "guidance_embeds": True,
    },
    vae={"block_out_channels": [128, 256, 512, 512]},
    scheduler={"shift": 3.0, "max_shift": 1.15, "max_image_seq_len": 4096},
    denoiser=_flux_denoiser,
    prompt=lambda config: {
        "prompt_embeds": (1, PROMPT_TOKENS, config["joint_attention_dim"]),
        "pooled_prompt_embeds": (1, config["pooled_projection_dim"]),
    },
    scale_argument="guidance_scale",
    masks_prompts=False,
)
ARCHITECTURES: Mapping[str, Architecture] = {each.name: each for each in (QWEN_IMAGE, FLUX_DEV)}


class RandomModel:
    """An architecture with weights drawn on a device.

    Args:
        architecture: the shape.
        folder: where to write the configurations, which ours reads; the weights are never written.
        device: where the weights are drawn and stay.
        dtype: of the weights.
    """

    def __init__(
        self, architecture: Architecture, folder: Path, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.architecture, self.device, self.dtype = architecture, device, dtype
        self._scheduler = FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, **architecture.scheduler
        )
        self._directory = self._write(folder / architecture.name)
        self.transformer = drawn(architecture, device, dtype)
        family = find_family(self._directory)
        self._model = describe_model(self._directory, family, None, element_type(dtype))

    def _write(self, path: Path) -> ModelDirectory:
        configs: dict[str, Config] = {
            "model_index.json": {"_class_name": self.architecture.pipeline.__name__},
            "transformer/config.json": self.architecture.config,
            "vae/config.json": self.architecture.vae,
        }
        for name, config in configs.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_text(json.dumps(config))
        self._scheduler.save_pretrained(path / "scheduler")
        return ModelDirectory(path)

    def staged(self, transformer: torch.nn.Module) -> StageModel[DenoiserModel]:
        """Our denoiser around a transformer, as a rank holds it."""
        denoiser = self.architecture.denoiser(transformer, self._directory, self.device)
        components = components_of(denoiser.components)
        return StageModel(LoadedModel(model=self._model, components=components), denoiser)

    def parameters(self, **fields: object) -> GenerationParameters:
        """Effective values of a request."""
        request = _REQUESTS.validate_python({"prompt": "noise", "seed": 0, **fields})
        return resolve(request, self._model, lambda: 0)

    def conditioning(self, parameters: GenerationParameters) -> dict[str, torch.Tensor]:
        """Random, as an encoder would give it."""
        generator = torch.Generator().manual_seed(1)
        shapes = dict(self.architecture.prompt(self.architecture.config))
        if parameters.guided:
            shapes |= {f"negative_{name}": shape for name, shape in shapes.items()}
        return {
            name: torch.randn(shape, generator=generator).to(self.dtype)
            for name, shape in shapes.items()
        }

    def pipeline(self, transformer: torch.nn.Module) -> Pipeline:
        """The published pipeline around a transformer; see stock_pipeline."""
        return stock_pipeline(self.architecture.pipeline, transformer, self._scheduler)

    def arguments(self, parameters: GenerationParameters) -> dict[str, Any]:
        """What the published pipeline is told for the same request."""
        conditioning = {
            name: tensor.to(self.device) for name, tensor in self.conditioning(parameters).items()
        }
        masks = {
            f"{name}_mask": torch.ones(tensor.shape[:2], dtype=torch.long, device=self.device)
            for name, tensor in conditioning.items()
            if self.architecture.masks_prompts
        }
        return {
            **conditioning,
            **masks,
            self.architecture.scale_argument: parameters.guidance_scale,
            "width": parameters.width,
            "height": parameters.height,
            "num_inference_steps": parameters.steps,
            "generator": torch.Generator("cpu").manual_seed(parameters.seed),
            "output_type": "latent",
        }


def drawn(architecture: Architecture, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """A transformer whose weights were drawn where they stay, in the type they stay in."""
    usual = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            made: torch.nn.Module = architecture.transformer(**architecture.config)
    finally:
        torch.set_default_dtype(usual)
    return made.requires_grad_(False).eval()


def tiny(architecture: Architecture) -> Architecture:
    """Ten blocks of two heads: enough to see that something runs."""
    config: dict[str, object] = {"num_attention_heads": 2, "attention_head_dim": 16}
    config |= {"axes_dims_rope": [4, 6, 6], "joint_attention_dim": 32, "num_layers": 10}
    if "num_single_layers" in architecture.config:
        config |= {"num_layers": 4, "num_single_layers": 6, "pooled_projection_dim": 16}
    return architecture.resized(**config)
