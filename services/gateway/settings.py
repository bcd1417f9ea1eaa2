"""What the gateway is told."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.domain.settings import ServerSettings

Targets = Annotated[tuple[str, ...], Field(min_length=1)]


class PipelineSettings(ServerSettings):
    """What stringing the stages together takes, wherever they run."""

    default_deadline_seconds: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="deadline of requests that come without one"
    )
    max_deadline_seconds: Annotated[float, Field(gt=0)] = Field(
        24 * 3600.0, description="longest deadline a request may have; longer ones are cut to it"
    )
    start_patience_seconds: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="how long health waits at the start for every replica to hold its models;"
        " after that, and with 0, one of each stage is enough",
    )
    upload_quota_bytes: Annotated[int, Field(ge=0)] = Field(
        512 * 1024 * 1024, description="memory for uploaded images; more are refused"
    )
    upload_ttl_seconds: Annotated[float, Field(gt=0)] = Field(
        600.0, description="how long an uploaded image is kept"
    )
    poll_seconds: Annotated[float, Field(gt=0)] = Field(
        0.5, description="pause between looks at what the stages hold and how busy they are"
    )


class GatewaySettings(PipelineSettings):
    """Flags, or TRIPTYCH_GATEWAY_* in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRIPTYCH_GATEWAY_")

    encoder: Targets = Field(description="addresses of the encoders, host:port or unix:/path")
    denoiser: Targets = Field(description="addresses of the denoisers")
    vae: Targets = Field(description="addresses of the VAEs")
