"""From what a process was told to the model of its stage."""

from collections.abc import Callable, Mapping
from itertools import starmap
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from services.domain.model_source import HubModel
from services.loaded_models.cache_profile import CacheProfile, find_profile
from services.loaded_models.stage_model import StageModel
from services.model_families import Family, find_family
from services.model_files.checksums import Checksums
from services.model_files.directory import ModelDirectory
from services.model_files.fingerprints import fingerprints
from services.model_files.hub import open_model
from services.model_files.model_name import ALLOWED, MODEL_NAME
from services.model_files.modules import components_of
from services.model_ports.spec import check_defaults
from services.model_ports.stages import DenoiserModel, EncoderModel, VaeModel
from services.torch_setup.runtime import hold_threads, torch_device, torch_dtype
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import LoadedModel, ModelInfo, Stage
from triptych.domain.receipt import Fingerprint


class _HasComponents(Protocol):
    @property
    def components(self) -> Mapping[str, torch.nn.Module]: ...


M = TypeVar("M", bound=_HasComponents)
_Load = Callable[[Family, ModelDirectory, torch.dtype, torch.device], M]


def load_encoder(
    source: Path | HubModel,
    name: str | None,
    dtype: ElementType,
    device: str,
    *,
    checksums: Checksums | None = None,
) -> StageModel[EncoderModel]:
    """Loads the encoder of a model.

    Args:
        source: the model directory, or a model on the hub, of which the stage's files are fetched.
        name: what requests call the model; None for the model's own name.
        dtype: the type the weights compute in.
        device: a torch device, for example "cuda:0".
        checksums: what the model's files must be; None to take them as they are.

    Raises:
        ConfigurationError: any of these cannot be used.
    """
    return _load(Stage.ENCODER, Family.load_encoder, (source, name, dtype, device), checksums)


def load_denoiser(
    source: Path | HubModel,
    name: str | None,
    dtype: ElementType,
    device: str,
    cache_profile: Path | None = None,
    *,
    checksums: Checksums | None = None,
) -> StageModel[DenoiserModel]:
    """Loads the denoiser of a model; see load_encoder.

    Args:
        source: see load_encoder.
        name: see load_encoder.
        dtype: see load_encoder.
        device: see load_encoder.
        cache_profile: see services.loaded_models.cache_profile.find_profile.
        checksums: see load_encoder.
    """
    told = (source, name, dtype, device)
    return _load(Stage.DENOISER, Family.load_denoiser, told, checksums, cache_profile)


def load_vae(
    source: Path | HubModel,
    name: str | None,
    dtype: ElementType,
    device: str,
    *,
    checksums: Checksums | None = None,
) -> StageModel[VaeModel]:
    """Loads the VAE of a model; see load_encoder."""
    return _load(Stage.VAE, Family.load_vae, (source, name, dtype, device), checksums)


def describe_model(
    directory: ModelDirectory,
    family: Family,
    name: str | None,
    dtype: ElementType,
    profile: CacheProfile | None = None,
) -> ModelInfo:
    """What a directory will be served as.

    Args:
        directory: the model.
        family: the directory's.
        name: what requests call the model; None for the model's own name.
        dtype: the type the weights compute in.
        profile: what a denoiser knows about its caches; no other stage needs to.

    Raises:
        ConfigurationError: the name is not one, or the defaults are outside the model's own limits.
    """
    capabilities = family.spec.capabilities(directory)
    model = ModelInfo(
        name=_checked_name(directory, name),
        family=family.spec.name,
        capabilities=capabilities if profile is None else profile.applied(capabilities),
        dtype=dtype,
    )
    check_defaults(model)
    return model


def _checked_name(directory: ModelDirectory, told: str | None) -> str:
    name = directory.name if told is None else told
    if not MODEL_NAME.fullmatch(name):
        where = "in its triptych.json" if told is None else "given with --model-name"
        raise ConfigurationError(f"model name: {name!r}, {where}, cannot be used; {ALLOWED}")
    return name


def _load(
    stage: Stage,
    load: _Load[M],
    told: tuple[Path | HubModel, str | None, ElementType, str],
    checksums: Checksums | None,
    cache_profile: Path | None = None,
) -> StageModel[M]:
    hold_threads()
    source, name, dtype, device = told
    directory = open_model(source, lambda index: find_family(index).spec.patterns(stage))
    family = find_family(directory)
    files = family.spec.loaded_files(directory, stage)
    if checksums is not None:
        checksums.check(directory.path, files)
    family.spec.check(directory, stage)
    denoises = stage is Stage.DENOISER
    profile = find_profile(directory, family.spec, cache_profile) if denoises else None
    described = describe_model(directory, family, name, dtype, profile)
    model = load(family, directory, torch_dtype(dtype), torch_device(device))
    loaded = LoadedModel(
        model=described,
        components=components_of(model.components),
        fingerprints=tuple(starmap(Fingerprint, fingerprints(directory.path).items())),
    )
    names = {file.relative_to(directory.path).as_posix(): file for file in files}
    return StageModel(loaded, model, names)
