"""Loads modules from a model directory and weighs them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from safetensors import SafetensorError

from services.model_files.directory import ModelDirectory
from services.torch_setup.runtime import element_type
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Component

# What constructors raise for a configuration that is not theirs, and readers for its files.
_UNLOADABLE = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError)


T_co = TypeVar("T_co", covariant=True)


class PretrainedClass(Protocol[T_co]):
    """A class of diffusers or transformers."""

    def from_pretrained(self, path: Path, **options: object) -> T_co:
        """Makes what a subfolder holds."""
        ...


def load_part(
    kind: PretrainedClass[T_co], directory: ModelDirectory, subfolder: str, **options: object
) -> T_co:
    """Loads one component from local files. Nothing in the directory is ever run.

    Args:
        kind: the class that reads the component.
        directory: the model.
        subfolder: where the component is.
        options: further ones of `from_pretrained`.

    Raises:
        ConfigurationError: files cannot be read, or do not fit the configuration.
    """
    folder = directory.path / subfolder
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except _UNLOADABLE as error:
        raise ConfigurationError(f"{folder}: cannot be loaded: {error!r}") from error


def load_module(
    kind: PretrainedClass[tuple[torch.nn.Module, Mapping[str, Sequence[str]]]],
    directory: ModelDirectory,
    subfolder: str,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.nn.Module:
    """Loads a component's weights, from safetensors alone, ready for inference.

    Raises:
        ConfigurationError: see load_part; or the files leave weights unset.
    """
    module, report = load_part(
        kind, directory, subfolder, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    # Both libraries draw what a file lacks at random and only warn.
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise ConfigurationError(
            f"{directory.path / subfolder}: {len(lacking)} weights are missing or of"
            f" another shape than config.json says, the first is {lacking[0]}"
        )
    return module.requires_grad_(False).eval().to(device)


def components_of(modules: Mapping[str, torch.nn.Module]) -> tuple[Component, ...]:
    """Counts the parameters of loaded modules, shared ones once."""
    return tuple(
        Component(
            name=name,
            parameter_count=sum(each.numel() for each in module.parameters()),
            size_bytes=sum(each.nbytes for each in module.parameters()),
            dtype=element_type(next(module.parameters()).dtype),
        )
        for name, module in modules.items()
    )
