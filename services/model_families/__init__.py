"""One folder for each kin group of model families, found by its `spec` module; loads no torch.

A folder offers `spec.SPECS` (torch-free) and the modules `encoder`, `denoiser` and `vae`, each with
`load(directory, dtype, device)`. A group whose VAEs only decode, as the AutoencoderKL that many
share, has no `vae`.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Final, cast

from services.model_files.directory import ModelDirectory
from services.model_ports.spec import FamilySpec
from services.torch_setup.memory import import_lasting
from triptych.domain.errors import ConfigurationError

if TYPE_CHECKING:
    import torch

    from services.model_ports.stages import DenoiserModel, EncoderModel, VaeModel


_SHARED_VAE: Final = "services.numerics.image_vae"


@dataclass(frozen=True, slots=True)
class Family:
    """A model family: what it says about itself, and its three stages, imported on loading."""

    folder: str
    spec: FamilySpec

    def load_encoder(
        self, directory: ModelDirectory, dtype: "torch.dtype", device: "torch.device"
    ) -> "EncoderModel":
        """Raises ConfigurationError if the directory cannot be loaded."""
        return cast("EncoderModel", self._module("encoder").load(directory, dtype, device))

    def load_denoiser(
        self, directory: ModelDirectory, dtype: "torch.dtype", device: "torch.device"
    ) -> "DenoiserModel":
        """Raises ConfigurationError if the directory cannot be loaded."""
        return cast("DenoiserModel", self._module("denoiser").load(directory, dtype, device))

    def load_vae(
        self, directory: ModelDirectory, dtype: "torch.dtype", device: "torch.device"
    ) -> "VaeModel":
        """Raises ConfigurationError if the directory cannot be loaded."""
        return cast("VaeModel", self._module("vae").load(directory, dtype, device))

    def _module(self, name: str) -> ModuleType:
        own = f"{__name__}.{self.folder}.{name}"
        shared = name == "vae" and find_spec(own) is None
        return import_lasting(_SHARED_VAE if shared else own)


def families() -> Iterator[Family]:
    """Every family there is, in the order of their folders' names."""
    for folder in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        for spec in importlib.import_module(f"{__name__}.{folder}.spec").SPECS:
            yield Family(folder, spec)


def find_family(directory: ModelDirectory) -> Family:
    """The family that serves a directory, with the spec of what the directory has.

    Raises:
        ConfigurationError: none does; the message lists what is served.
    """
    served: dict[str, Family] = {
        pipeline_class: family
        for family in families()
        for pipeline_class in family.spec.pipeline_classes
    }
    family = served.get(directory.pipeline_class)
    if family is None:
        raise ConfigurationError(
            f"{directory.path / 'model_index.json'}: _class_name is {directory.pipeline_class};"
            f" served are {', '.join(sorted(served))}"
        )
    return replace(family, spec=family.spec.of(directory))
