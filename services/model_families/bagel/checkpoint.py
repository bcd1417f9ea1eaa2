"""BAGEL's weight files, of which every stage reads its own tensors alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import nn
from transformers import Qwen2Config, SiglipVisionConfig

from services.model_families.bagel.spec import VISION_FIT, WEIGHTS
from services.model_files.directory import ModelDirectory
from services.model_files.modules import check_finite, reading
from services.model_files.tensor_places import read_headers, refuse_unplaced
from triptych.domain.errors import ConfigurationError

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)

_MODEL = "language_model.model"
_OF_THE_VISION_TOWER = ("vit_model.", "connector.", "vit_pos_embed.")
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"}


def language_model_config(directory: ModelDirectory) -> Qwen2Config:
    """The language model's sizes.

    Raises:
        ConfigurationError: they are not those of a Qwen2.
    """
    return _config(Qwen2Config, directory, "llm_config.json")


def vision_config(directory: ModelDirectory) -> SiglipVisionConfig:
    """The vision tower's sizes.

    Raises:
        ConfigurationError: they are not those of a SigLIP.
    """
    config = _config(SiglipVisionConfig, directory, "vit_config.json")
    if config.patch_size != VISION_FIT.multiple:
        raise ConfigurationError(
            f"{directory.path / 'vit_config.json'}: patch_size is {config.patch_size}; served are"
            f" models with {VISION_FIT.multiple}"
        )
    config.vision_use_head = False
    # Published: the language model was trained on the output of the last layer but one, and the
    # last was never part of the weights.
    config.num_hidden_layers -= 1
    return config


def published_name(name: str) -> str:
    """What a weight of FlowTransformer or VisionTower is called in the published file."""
    match name.split("."):
        case ["language_model", "layers", number, expert, part, *rest]:
            owner = f"self_attn.{part}" if part in _ATTENTION else part
            if expert == "generation":
                owner += "_moe_gen"
            return ".".join([_MODEL, "layers", number, owner, *rest])
        case ["language_model", "norm", weight]:
            return f"{_MODEL}.norm_moe_gen.{weight}"
        case ["vit_model", *rest]:
            return ".".join(["vit_model.vision_model", *rest])
        case ["embed_tokens", weight]:
            return f"{_MODEL}.embed_tokens.{weight}"
    return name


def of_vision_tower(name: str) -> bool:
    """Whether a published tensor is one of those that look at pictures; all others denoise."""
    return name.startswith(_OF_THE_VISION_TOWER)


def of_transformer(name: str) -> bool:
    """See of_vision_tower."""
    return not of_vision_tower(name)


def load_published(
    make: Callable[[], M],
    directory: ModelDirectory,
    dtype: torch.dtype,
    device: torch.device,
    owns: Callable[[str], bool] = lambda _: False,
) -> M:
    """Makes a module and loads the weights it has from the file that all stages share.

    Args:
        make: makes a module all of whose state is in the file; called where it takes no memory.
        directory: the model.
        dtype: the type the weights compute in.
        device: where they go; they never pass through the host's memory as a whole.
        owns: which of the file's tensors nothing else reads.

    Raises:
        ConfigurationError: a weight is missing, of another shape or not finite, or a tensor that it
            owns has no place in it.
    """
    with torch.device("meta"):
        module = make()
    file = directory.path / WEIGHTS
    names = {name: published_name(name) for name in module.state_dict()}
    with reading(file):
        headers = read_headers([file])
        unplaced = [name for name in headers.keys() - names.values() if owns(name)]
        refuse_unplaced(type(module).__name__, unplaced, headers)
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            found = {
                name: tensors.get_tensor(published).to(dtype)
                for name, published in names.items()
                if published in headers
            }
    return fill(module, found, file).to(device)


def fill(module: M, found: Mapping[str, torch.Tensor], file: Path) -> M:
    """Gives a module its weights, ready for inference.

    Raises:
        ConfigurationError: one of the module's is missing, of another shape or not finite.
    """
    for name, wanted in module.state_dict().items():
        shape = tuple(found[name].shape) if name in found else None
        if shape != tuple(wanted.shape):
            problem = "is missing" if shape is None else f"has shape {shape}"
            raise ConfigurationError(
                f"{file}: {published_name(name)} {problem}; needed is {tuple(wanted.shape)}"
            )
    with reading(file):
        module.load_state_dict(dict(found), assign=True)
    check_finite(module, file)
    return module.requires_grad_(False).eval()


def _config(kind: Callable[..., C], directory: ModelDirectory, name: str) -> C:
    values: Mapping[str, Any] = directory.json(name)
    try:
        return kind(**values)
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        problem = " ".join(str(error).split())
        raise ConfigurationError(f"{directory.path / name}: cannot be used: {problem}") from error
