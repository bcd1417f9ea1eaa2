"""What the processes that measure caches are told."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import SettingsConfigDict

from services.domain.model_source import HubModel, ModelSource, taken
from services.domain.settings import ProcessSettings
from triptych.domain.element_type import ElementType


class MeasuringSettings(ProcessSettings):
    """What is drawn, and with what."""

    # Before the model, which takes it along.
    offline: bool = Field(
        False, description="never ask the hub; a model from there must be in its cache"
    )
    model: ModelSource = Field(
        description="model directory in the published diffusers layout, or a repository of the"
        " hub that holds one, as org/name or org/name@revision"
    )
    model_manifest: Path | None = Field(
        None,
        description="file with the SHA-256 of the model's files, as sha256sum and triptych manifest"
        " write it; other files are refused",
    )
    dtype: ElementType = Field(ElementType.FLOAT32, description="type the weights compute in")
    device: str = Field("cpu", description="torch device, for example cpu or cuda:0")
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(1, description="torch threads")
    prompts: Path | None = Field(None, description="text file with a prompt on each line")
    image: tuple[Path, ...] = Field(
        (), description="picture that every prompt starts from; repeat for several, in order"
    )
    steps: int | None = Field(None, description="denoising steps")
    width: int | None = Field(None, description="in pixels")
    height: int | None = Field(None, description="in pixels")
    guidance_scale: float | None = Field(None, description="how closely to follow the prompts")
    num_frames: int | None = Field(None, description="of videos")

    @field_validator("model")
    @classmethod
    def _take_offline(cls, model: ModelSource, told: ValidationInfo) -> Path | HubModel:
        return taken(model, offline=told.data.get("offline", False))


class CalibrateSettings(MeasuringSettings):
    """Flags, or TRIPTYCH_CALIBRATE_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_CALIBRATE_")

    output: Path = Field(description="cache profile to write; of one that is there, the rest stays")
    identity: bool = Field(False, description="take distances as they are instead of fitting them")


class TuneSettings(MeasuringSettings):
    """Flags, or TRIPTYCH_TUNE_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_TUNE_")

    profile: Path = Field(
        description="cache profile to take coefficients from, if it is there, and to write"
    )
    min_psnr: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        description="in dB, of every picture against the one without a cache"
    )
