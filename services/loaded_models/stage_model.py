"""A model as one stage holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from triptych.domain.errors import InvalidRequest, ModelNotFound
from triptych.domain.generation import GenerationParameters, resolve
from triptych.domain.model import LoadedModel, ModelInfo

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class StageModel(Generic[M]):
    """What is loaded, as others see it, and the object that computes.

    Attributes:
        files: all that it was loaded from, by their names in the model's directory.
    """

    loaded: LoadedModel
    model: M
    files: Mapping[str, Path] = field(default_factory=dict)

    def check(self, parameters: GenerationParameters) -> None:
        """Refuses parameters that were made for another model, type or set of limits.

        The gateway resolved them against what some replica reported, which may have been restarted.

        Raises:
            ModelNotFound: another model's.
            InvalidRequest: outside this model's limits, or not all effective values.
        """
        check_parameters(parameters, self.loaded.model)


def check_parameters(parameters: GenerationParameters, served: ModelInfo) -> None:
    """See StageModel.check; for whoever has no model loaded, but knows which there is."""
    if parameters.model != served.name:
        raise ModelNotFound(parameters.model, [served.name])
    request = parameters.request
    effective = resolve(request, served, draw_seed=lambda: parameters.seed)
    if effective.negative_prompt != parameters.negative_prompt:
        raise InvalidRequest.of(
            "negative_prompt",
            f"is missing, which does not go with guidance_scale {parameters.guidance_scale:g}",
        )
    if effective.cache != parameters.cache:
        raise InvalidRequest.of(
            "acceleration.tea_cache.coefficients",
            "are missing; between stages all values are given",
        )
    if effective.options is not None and effective.options != parameters.options:
        raise InvalidRequest.of(
            effective.options.kind, "lacks values; between stages all of them are given"
        )
