"""What a family says about itself without loading torch."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from services.domain.stages import DenoiseRequest
from services.model_files.directory import (
    CACHE_PROFILE,
    INDEX,
    MANIFEST,
    VOCABULARY,
    ModelDirectory,
)
from services.model_files.weights import weight_files, weight_patterns
from services.model_ports.sizes import Crossings, Residency
from triptych.domain.errors import ConfigurationError, InvalidRequest
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.input_image import ImageDescription
from triptych.domain.model import Capabilities, ModelInfo, Stage

# Of a subfolder's configurations, vocabularies and templates.
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
# How the names of components with weights begin.
_WEIGHTED = {"text_encoder": Stage.ENCODER, "transformer": Stage.DENOISER, "vae": Stage.VAE}


OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "Qwen2Tokenizer": ("Qwen2TokenizerFast",),
    "CLIPTokenizer": ("CLIPTokenizerFast",),
    "T5TokenizerFast": ("T5Tokenizer",),
    "Qwen2VLProcessor": ("Qwen2_5_VLProcessor",),
}
"""By class, what other versions of its library call it in model_index.json."""


@dataclass(frozen=True, kw_only=True)
class FamilySpec(ABC):
    """The torch-free face of a model family.

    Attributes:
        name: for example "qwen-image".
        pipeline_classes: what directories of this family name as their pipeline class.
        classes: by component, its class; where components have subfolders, model_index.json must
            name the same.
        files: by stage, the files it needs of a model that has no subfolders; None where
            components have theirs.
        stand_ins: by component, other classes that a directory may name, which hold all of its
            own and give the pipeline the same.
    """

    name: str
    pipeline_classes: frozenset[str]
    classes: Mapping[str, str]
    files: Mapping[Stage, tuple[str, ...]] | None = None
    stand_ins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, directory: ModelDirectory) -> Self:
        """The spec of one directory, told from the model's index alone: without what it lacks."""
        return self

    @abstractmethod
    def capabilities(self, directory: ModelDirectory) -> Capabilities:
        """What a model accepts, by its configuration (never its weights)."""

    @abstractmethod
    def crossings(self, directory: ModelDirectory, parameters: GenerationParameters) -> Crossings:
        """What crosses between the stages for a request, by the configurations of all of them."""

    @abstractmethod
    def residency(self, directory: ModelDirectory, request: DenoiseRequest) -> Residency:
        """What a rank keeps of a request, by what the denoiser's stage needs."""

    @property
    def weights(self) -> Mapping[Stage, tuple[str, ...]]:
        """By stage, the components whose weights it loads, each from its own subfolder."""
        return {
            stage: tuple(name for name in self.classes if name.startswith(kind))
            for kind, stage in _WEIGHTED.items()
        }

    @property
    def configs(self) -> Mapping[Stage, tuple[str, ...]]:
        """By stage, further subfolders of which it needs only the configuration.

        Every stage needs those of the VAE and the transformer: they say what can be drawn.
        """
        read = [name for name in self.classes if name.endswith("processor") or "tokenizer" in name]
        return {
            Stage.ENCODER: (*read, "transformer", "vae"),
            Stage.DENOISER: ("scheduler", "vae"),
            Stage.VAE: ("transformer",),
        }

    def patterns(self, stage: Stage) -> tuple[str, ...]:
        """What one stage reads of a model, as patterns of paths inside its directory.

        No pattern matches weights of another stage, unless both read the same file, nor weights in
        a form that is never loaded.
        """
        profile = (CACHE_PROFILE,) if stage is Stage.DENOISER else ()
        if self.files is not None:
            named = self.files[stage]
            # Which of them there are is the model's choice.
            vocabulary = VOCABULARY if "tokenizer_config.json" in named else ()
            return (MANIFEST, *profile, *named, *vocabulary)
        weights = self.weights[stage]
        return (
            INDEX,
            MANIFEST,
            *profile,
            *(
                f"{subfolder}/{name}"
                for subfolder in (*weights, *self.configs[stage])
                for name in _SMALL_FILES
            ),
            *(pattern for subfolder in weights for pattern in weight_patterns(subfolder)),
        )

    def loaded_files(self, directory: ModelDirectory, stage: Stage) -> tuple[Path, ...]:
        """All files of a directory that one stage may read, its weights last.

        Raises:
            ConfigurationError: an index of shards is none, or names what is not there.
        """
        found = {file for each in self.patterns(stage) for file in directory.path.glob(each)}
        weights: list[Path] = []
        folders: tuple[str, ...] = ()
        if self.files is None:
            folders = (*self.weights[stage], *self.configs[stage])
            for folder in self.weights[stage]:
                weights += weight_files(directory.path / folder)
        elif "tokenizer_config.json" in self.files[stage]:
            folders = (".",)
        # What libraries take along that is there, such as templates, which may lie further down.
        beside = (f"{folder}/**/{name}" for folder in folders for name in _SMALL_FILES)
        found |= {file for each in beside for file in directory.path.glob(each)}
        found -= {*weights}
        return (*sorted(found), *sorted({*weights}))

    def check(self, directory: ModelDirectory, stage: Stage) -> None:
        """Checks that a directory has what one stage needs.

        Raises:
            ConfigurationError: naming the first thing that is wrong and what to do.
        """
        if self.files is not None:
            directory.check_files(self.files[stage])
            return
        weights, configs = self.weights[stage], self.configs[stage]
        for subfolder in (*weights, *configs):
            published = self.classes[subfolder]
            alike = (*OTHER_NAMES.get(published, ()), *self.stand_ins.get(subfolder, ()))
            directory.check_class(subfolder, published, *alike)
        directory.check(weights=weights, configs=configs)


def check_defaults(model: ModelInfo) -> None:
    """Checks that a request which leaves everything out is one the model accepts.

    Raises:
        ConfigurationError: naming every default outside the model's own limits.
    """
    defaults = model.capabilities.defaults
    limits = model.capabilities
    guided = limits.guides(defaults.guidance_scale, options=None)
    sized = limits.image_fit is None or limits.image_fit.overridable
    image = ImageDescription(
        width=defaults.width, height=defaults.height, size_bytes=1, checksum_xxh3=0
    )
    request = GenerationRequest(
        prompt="a picture",
        negative_prompt=defaults.negative_prompt if guided else None,
        width=defaults.width if sized else None,
        height=defaults.height if sized else None,
        steps=defaults.steps,
        guidance_scale=defaults.guidance_scale,
        images=(image,) * limits.min_images,
    )
    try:
        resolve(request, model, draw_seed=lambda: 0)
    except InvalidRequest as error:
        raise ConfigurationError(f"defaults of {model.name}: {error}") from error
