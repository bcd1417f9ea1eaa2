"""Loads modules from a model directory and weighs them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from services.model_files.directory import VOCABULARY, ModelDirectory
from services.model_files.tensor_places import check_places
from services.torch_setup.runtime import element_type
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Component

_LONGEST_PROBLEM = 400

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
    # Libraries say what is wrong with a vocabulary, but not in which of its files.
    vocabulary = [name for name in VOCABULARY if (folder / name).is_file()]
    with reading(folder / " or ".join(vocabulary) if vocabulary else folder):
        return kind.from_pretrained(folder, local_files_only=True, **options)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Says of whatever a library raises meanwhile which files of a model it could not use.

    Args:
        path: the file, or the folder of a component.

    Raises:
        ConfigurationError: a library raised something.
    """
    try:
        yield
    except ConfigurationError:
        raise
    # Of damaged files libraries say so with anything, tokenizers with Exception itself.
    except Exception as error:
        problem = " ".join(str(error).split())[:_LONGEST_PROBLEM]
        raise ConfigurationError(
            f"{path}: cannot be loaded: {type(error).__name__}: {problem}"
        ) from error


def load_module(
    kind: PretrainedClass[tuple[torch.nn.Module, Mapping[str, Sequence[str]]]],
    directory: ModelDirectory,
    subfolder: str,
    dtype: torch.dtype,
    device: torch.device,
) -> torch.nn.Module:
    """Loads a component's weights, from safetensors alone, ready for inference.

    Raises:
        ConfigurationError: see load_part and check_places; or weights that are not finite.
    """
    folder = directory.path / subfolder
    with reading(folder):
        check_places(kind, folder)
    module, report = load_part(
        kind, directory, subfolder, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    # Both libraries draw what a file lacks at random and only warn.
    lacking = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if lacking:
        raise ConfigurationError(
            f"{folder}: {len(lacking)} weights are missing or of"
            f" another shape than config.json says, the first is {lacking[0]}"
        )
    ready = module.requires_grad_(False).eval().to(device)
    check_finite(ready, folder)
    return ready


def check_finite(module: torch.nn.Module, path: Path) -> None:
    """Refuses weights of which nothing but a black or torn picture can come.

    It reads them once, where they are: 1.5 to 2.5 GB in a second on one thread of a CPU.

    Args:
        module: as it computes: in float16, what was large before is infinite.
        path: where its weights came from.

    Raises:
        ConfigurationError: one holds a number that is not finite.
    """
    for name, weights in module.named_parameters():
        # The least and the greatest are NaN if anything is.
        if weights.numel() and not all(edge.isfinite() for edge in torch.aminmax(weights)):
            raise ConfigurationError(
                f"{path}: {name} holds numbers that are not finite as"
                f" {element_type(weights.dtype)}; fetch it again, or serve another type"
            )


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
