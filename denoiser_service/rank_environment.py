"""What torchrun, or a supervisor in its stead, tells a rank about its group."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class RankEnvironment(BaseSettings):
    """The variables RANK, WORLD_SIZE and so on, under torchrun's names.

    Attributes:
        local_rank: among those of this host; the number of the rank's device.
        torchelastic_run_id: only torchrun says it.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    rank: Annotated[int, Field(ge=0)] = 0
    world_size: Annotated[int, Field(ge=1)] = 1
    local_rank: Annotated[int, Field(ge=0)] = 0
    master_addr: str = "127.0.0.1"
    master_port: Annotated[int, Field(ge=0, le=65535)] = 0
    torchelastic_run_id: str = ""
