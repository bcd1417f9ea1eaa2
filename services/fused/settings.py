"""What the fused process is told."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from denoiser_service.policy import Order
from services.domain.element_type import ElementType
from services.gateway.settings import PipelineSettings


class FusedSettings(PipelineSettings):
    """Flags, or TRIPTYCH_FUSED_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_FUSED_")

    model: Annotated[tuple[Path, ...], Field(min_length=1)] = Field(
        description="model directories in the published diffusers layout; repeat for several"
    )
    dtype: ElementType = Field(ElementType.FLOAT32, description="type the weights compute in")
    device: str = Field("cpu", description="torch device, for example cpu or cuda:0")
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(1, description="torch threads")
    max_queued_requests: Annotated[int, Field(ge=1)] = Field(
        64, description="requests that may wait before others are refused"
    )
    tensor_ttl_seconds: Annotated[float, Field(gt=0)] = Field(
        300.0, description="life of stored tensors that nobody released"
    )
    sweep_seconds: Annotated[float, Field(gt=0)] = Field(
        10.0, description="pause between sweeps for expired tensors"
    )
    order: Order = Field(Order.FIFO, description="how resident requests share the rank")
    max_resident_requests: Annotated[int, Field(ge=1, le=64)] = Field(
        4, description="requests whose state the rank holds at once"
    )
