"""Loads modules from a model directory and weighs them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError

from services.domain.errors import ConfigurationError
from services.domain.model import Component
from services.model_api.directory import ModelDirectory

# What constructors raise for a configuration that is not theirs, and readers for its files.
_UNLOADABLE = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError)


class PretrainedClass(Protocol):
    """A diffusers or transformers model class."""

    def from_pretrained(
        self, path: Path, **options: object
    ) -> tuple[torch.nn.Module, Mapping[str, Sequence[str]]]:
        """With `output_loading_info`: the module, and what did not fit."""
        ...


def load_module(
    kind: PretrainedClass,
    directory: ModelDirectory,
    subfolder: str,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.nn.Module:
    """Loads one component from local safetensors, ready for inference.

    Nothing in the directory is ever run.

    Raises:
        ConfigurationError: files cannot be read, or do not fit the configuration.
    """
    folder = directory.path / subfolder
    try:
        module, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except _UNLOADABLE as error:
        raise ConfigurationError(f"{folder}: cannot be loaded: {error}") from error
    # Both libraries draw what a file lacks at random and only warn.
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise ConfigurationError(
            f"{folder}: {len(lacking)} weights are missing or of another shape than config.json"
            f" says, the first is {lacking[0]}"
        )
    return module.requires_grad_(False).eval().to(device)


def components_of(modules: Mapping[str, torch.nn.Module]) -> tuple[Component, ...]:
    """Counts the parameters of loaded modules, shared ones once."""
    return tuple(
        Component(
            name=name,
            parameter_count=sum(each.numel() for each in module.parameters()),
            size_bytes=sum(each.nbytes for each in module.parameters()),
        )
        for name, module in modules.items()
    )
