"""What the fused process is told."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import ByteSize, Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from denoiser_service.service.policy import Order
from services.domain.model_source import HubModel, ModelSource, taken
from services.domain.settings import DecodingSettings, EncodingSettings, Seconds
from services.gateway.settings import PipelineSettings
from triptych.domain.element_type import ElementType


class FusedSettings(PipelineSettings, DecodingSettings, EncodingSettings):
    """Flags, or TRIPTYCH_FUSED_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_FUSED_")

    # Before the models, which take it along.
    offline: bool = Field(
        False, description="never ask the hub; models from there must be in its cache"
    )
    model: Annotated[tuple[ModelSource, ...], Field(min_length=1)] = Field(
        description="model directory in the published diffusers layout, or a repository of the"
        " hub that holds one, as org/name or org/name@revision; repeat for several"
    )
    model_manifest: tuple[Path, ...] = Field(
        (),
        description="file of each model, in their order, with the SHA-256 of its files, as"
        " sha256sum and triptych manifest write it; other files are refused",
    )
    cache_profile: tuple[Path, ...] = Field(
        (),
        description="cache profile of each model, in their order;"
        " cache_profile.json in a model's directory, if it is there, by default",
    )
    dtype: ElementType = Field(ElementType.FLOAT32, description="type the weights compute in")
    device: str = Field("cpu", description="torch device, for example cpu or cuda:0")
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(1, description="torch threads")
    attention_backend: str | None = Field(
        None, description="diffusers attention backend, for example flash; its default by default"
    )
    compile_blocks: bool = Field(
        False, description="compile the transformers' blocks when they are first called"
    )
    trace_steps: bool = Field(
        False, description="a span for every step, beside the denoiser's events"
    )
    max_queued_requests: Annotated[int, Field(ge=1)] = Field(
        64, description="requests that may wait before others are refused"
    )
    tensor_ttl_seconds: Seconds = Field(
        300.0,
        description="life of stored tensors that nobody released; until the request's deadline if"
        " that is later",
    )
    sweep_seconds: Seconds = Field(10.0, description="pause between sweeps for expired tensors")
    order: Order = Field(Order.FIFO, description="how resident requests share the rank")
    max_resident_requests: Annotated[int, Field(ge=1, le=64)] = Field(
        4, description="requests whose state the rank holds at once"
    )
    max_resident_bytes: Annotated[ByteSize, Field(gt=0)] | None = Field(
        None,
        description="what the rank may keep of all of them between steps, for example 20GiB; no"
        " limit by default. One forward's own memory comes on top of it",
    )
    max_step_batch: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="requests of the same sizes that may take a step in one forward; more than 1"
        " gives pictures that differ by rounding from those that a request gives alone",
    )

    @model_validator(mode="after")
    def _check_batch(self) -> Self:
        if self.max_step_batch > self.max_resident_requests:
            raise ValueError(
                f"max_step_batch: is {self.max_step_batch}; allowed are at most"
                f" {self.max_resident_requests}, the requests that are resident at once"
            )
        return self

    @field_validator("model")
    @classmethod
    def _take_offline(
        cls, models: tuple[ModelSource, ...], told: ValidationInfo
    ) -> tuple[Path | HubModel, ...]:
        offline = told.data.get("offline", False)
        return tuple(taken(each, offline=offline) for each in models)

    @field_validator("cache_profile", "model_manifest")
    @classmethod
    def _one_for_each(cls, files: tuple[Path, ...], told: ValidationInfo) -> tuple[Path, ...]:
        models = told.data.get("model", ())
        if files and len(files) != len(models):
            raise ValueError(f"are {len(files)} for {len(models)} models; give one for each")
        return files
