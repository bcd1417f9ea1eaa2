"""A model directory as published, with a subfolder for each component or with none."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from services.model_files.model_name import model_name
from services.model_files.weights import check_fetched, check_weight_file, check_weights
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import GenerationDefaults

INDEX = "model_index.json"
MANIFEST = "triptych.json"
CACHE_PROFILE = "cache_profile.json"
VOCABULARY = ("tokenizer.json", "vocab.json", "merges.txt")
"""A tokenizer needs the first, or both of the others."""

# Says what a model is that has no subfolders to index.
ROOT_CONFIGURATION = "config.json"
_CONFIGURATIONS = (
    "config.json",
    "scheduler_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
)


class DefaultOverrides(BaseModel):
    """Values of GenerationDefaults that a directory sets differently from its family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None


class Manifest(BaseModel):
    """The optional triptych.json in a model's own folder.

    Attributes:
        name: what requests call the model; the folder's name, or the repository's, if absent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    defaults: DefaultOverrides = DefaultOverrides()


class ModelDirectory:
    """One model on disk; a host may hold only the files of the stages it runs.

    Attributes:
        path: the directory.
        index_path: where the model says what it is: model_index.json, or config.json if it has no
            subfolders.
        pipeline_class: `_class_name` of the former, for example "QwenImagePipeline", or the first
            of the latter's `architectures`.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Reads the model's index and triptych.json.

        Args:
            path: the directory.
            name: of the model if triptych.json gives none; the folder's by default.

        Raises:
            ConfigurationError: not a directory, or one of the two cannot be used.
        """
        if not path.is_dir():
            raise ConfigurationError(f"model: {path} is not a directory")
        self.path = path
        # Read once: a process asks again long after it has started.
        self._files: dict[str, dict[str, Any]] = {}
        self._configs: dict[str, dict[str, Any]] = {}
        whole = not (path / INDEX).exists() and (path / ROOT_CONFIGURATION).exists()
        self.index_path = path / (ROOT_CONFIGURATION if whole else INDEX)
        self._index = _read_json(self.index_path)
        self.pipeline_class = self._architecture() if whole else self._class_name()
        self._manifest = _read_manifest(path / MANIFEST)
        self._given_name = name

    @property
    def name(self) -> str:
        """What requests call the model unless the process was told otherwise.

        Raises:
            ConfigurationError: triptych.json has no name, and the folder's makes none.
        """
        if self._manifest.name is not None:
            return self._manifest.name
        return model_name(self._given_name or self.path.resolve().name)

    def defaults(self, published: GenerationDefaults) -> GenerationDefaults:
        """The family's published defaults under those of this directory."""
        return replace(published, **self._manifest.defaults.model_dump(exclude_none=True))

    def setting(self, name: str) -> object:
        """A value of the model's index, as JSON; None if it says nothing."""
        return self._index.get(name)

    def json(self, name: str) -> Mapping[str, Any]:
        """The values of a JSON file beside the index.

        Raises:
            ConfigurationError: it is missing or unreadable.
        """
        if name not in self._files:
            self._files[name] = _read_json(self.path / name)
        return self._files[name]

    def config(self, subfolder: str) -> Mapping[str, Any]:
        """The configuration of one component, as JSON values.

        Raises:
            ConfigurationError: the subfolder or its configuration is missing or unreadable.
        """
        if subfolder not in self._configs:
            self._configs[subfolder] = _read_json(self._configuration(subfolder))
        return self._configs[subfolder]

    def check(self, *, weights: Iterable[str], configs: Iterable[str]) -> None:
        """Checks that what a stage needs is there and whole, without loading it.

        Args:
            weights: subfolders whose weights and configuration are needed.
            configs: subfolders of which only the configuration is needed.

        Raises:
            ConfigurationError: naming the first thing that is wrong and what to do.
        """
        for subfolder in configs:
            self.config(subfolder)
            self._check_vocabulary(subfolder)
        for subfolder in weights:
            if quantised := self.config(subfolder).get("quantization_config"):
                file = self.path / subfolder / "config.json"
                raise ConfigurationError(
                    f"{file}: quantization_config is {quantised!r}; quantised weights are not"
                    " served, fetch the full ones"
                )
            library, _ = self._component(subfolder)
            check_weights(self.path / subfolder, library)

    def check_files(self, names: Iterable[str]) -> None:
        """Checks files of a model without subfolders, without loading them.

        Args:
            names: configurations and weights, by their suffixes; next to a tokenizer's
                configuration there must be its vocabulary.

        Raises:
            ConfigurationError: naming the first that is missing or not whole.
        """
        for name in names:
            file = self.path / name
            if not file.is_file():
                raise ConfigurationError(f"{file}: is missing")
            if file.suffix == ".safetensors":
                check_weight_file(file)
            else:
                _read_json(file)
            if name == "tokenizer_config.json":
                self._check_vocabulary(".")

    def check_class(self, subfolder: str, *allowed: str) -> None:
        """Checks which class model_index.json names for a component.

        Args:
            subfolder: the component's.
            allowed: the classes it may name, the published one first.

        Raises:
            ConfigurationError: another class, or none.
        """
        _, named = self._component(subfolder)
        if named not in allowed:
            raise ConfigurationError(
                f"{self.index_path}: {subfolder} is a {named}; {self.pipeline_class} is served"
                f" with {allowed[0]}"
            )

    def refuse(self, subfolder: str, option: str, why: str) -> None:
        """Checks that a component's configuration leaves an option off.

        Raises:
            ConfigurationError: it is on.
        """
        if self.config(subfolder).get(option):
            raise ConfigurationError(f"{self.path / subfolder}: {option} is true; {why}")

    def _class_name(self) -> str:
        name = self._index.get("_class_name")
        if not isinstance(name, str):
            raise ConfigurationError(f"{self.index_path}: _class_name is {name!r}, not a name")
        return name

    def _architecture(self) -> str:
        match self._index.get("architectures"):
            case [str(name), *_]:
                return name
            case other:
                raise ConfigurationError(
                    f"{self.index_path}: architectures are {other!r}, not a list of names"
                )

    def _component(self, subfolder: str) -> tuple[str, str]:
        match self._index.get(subfolder):
            case [str(library), str(class_name)]:
                return library, class_name
            case other:
                raise ConfigurationError(
                    f"{self.index_path}: {subfolder} is {other!r}, not [library, class]"
                )

    def _configuration(self, subfolder: str) -> Path:
        folder = self.path / subfolder
        if not folder.is_dir():
            raise ConfigurationError(f"{folder}: the folder is missing")
        for name in _CONFIGURATIONS:
            if (folder / name).is_file():
                return folder / name
        raise ConfigurationError(
            f"{folder}: has no configuration; needed is one of {', '.join(_CONFIGURATIONS)}"
        )

    def _check_vocabulary(self, subfolder: str) -> None:
        folder = self.path / subfolder
        if not (folder / "tokenizer_config.json").is_file():
            return
        pair = (folder / "vocab.json", folder / "merges.txt")
        for name in VOCABULARY:
            if (folder / name).is_file():
                check_fetched(folder / name)
        if not (folder / "tokenizer.json").is_file() and not all(each.is_file() for each in pair):
            raise ConfigurationError(
                f"{folder}: has no vocabulary; needed is tokenizer.json,"
                " or vocab.json with merges.txt"
            )


def _read_json(file: Path) -> dict[str, Any]:
    if file.is_file():
        check_fetched(file)
    try:
        value = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise ConfigurationError(f"{file}: is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigurationError(f"{file}: holds {type(value).__name__}, not a JSON object")
    return value


def _read_manifest(file: Path) -> Manifest:
    if not file.exists():
        return Manifest()
    values = _read_json(file)
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()
        )
        raise ConfigurationError(f"{file}: {problems}") from error
