"""What torchrun, or a supervisor in its stead, tells a rank about its group."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from triptych.domain.errors import ConfigurationError


class RankEnvironment(BaseSettings):
    """The variables RANK, WORLD_SIZE and so on, under torchrun's names.

    Attributes:
        local_rank: among those of this host; the number of the rank's device.
        group_world_size: hosts, as torchrun counts them.
        torchelastic_run_id: only torchrun says it.
        torchelastic_use_agent_store: whether ranks meet in a store that outlives their restarts.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    rank: Annotated[int, Field(ge=0)] = 0
    world_size: Annotated[int, Field(ge=1)] = 1
    local_rank: Annotated[int, Field(ge=0)] = 0
    master_addr: str = "127.0.0.1"
    master_port: Annotated[int, Field(ge=0, le=65535)] = 0
    group_world_size: Annotated[int, Field(ge=1)] = 1
    torchelastic_run_id: str = ""
    torchelastic_use_agent_store: bool = False

    def check(self) -> None:
        """Checks that the ranks can meet again after a restart.

        Raises:
            ConfigurationError: in the store they would find what was left by an earlier attempt:
                torchrun counts restarts on each host, and tells attempts apart by that.
        """
        if self.group_world_size > 1 and self.torchelastic_use_agent_store:
            raise ConfigurationError(
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE: is not 1; with several hosts torchrun needs"
                " it, or ranks do not find one another after a restart"
            )
