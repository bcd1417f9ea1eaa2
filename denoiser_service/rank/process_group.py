"""A rank's place in torch.distributed's default group, as torchrun tells it."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any, cast

import torch
import torch.distributed as dist
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


def own_device(device: str, environment: RankEnvironment) -> str:
    """The device of one rank: where a host has several of a kind, each rank has its own."""
    alone = environment.world_size == 1 or device == "cpu"
    return device if alone else f"{device}:{environment.local_rank}"


@contextmanager
def joined(
    environment: RankEnvironment, device: str, *, seconds: float, rendezvous_fd: int | None
) -> Iterator[None]:
    """Joins the group, and leaves it again; a rank that is alone has none.

    Args:
        environment: which rank of which group.
        device: what the model computes on; on CUDA, tensors there go by NCCL, others by gloo.
        seconds: how long joining, and every collective, may take.
        rendezvous_fd: of rank 0, a listening socket at MASTER_ADDR and MASTER_PORT; None where the
            environment says all, as torchrun's does.
    """
    if environment.world_size == 1:
        yield
        return
    timeout = timedelta(seconds=seconds)
    on_cuda = torch.device(device).type == "cuda"
    backend = "cpu:gloo,cuda:nccl" if on_cuda else "gloo"
    if environment.torchelastic_run_id:
        dist.init_process_group(backend, timeout=timeout)
    else:
        # Public, but not declared to be.
        store = cast("Any", dist).TCPStore(
            environment.master_addr,
            environment.master_port,
            environment.world_size,
            is_master=environment.rank == 0,
            timeout=timeout,
            wait_for_workers=False,
            master_listen_fd=rendezvous_fd,
        )
        dist.init_process_group(
            backend,
            store=store,
            rank=environment.rank,
            world_size=environment.world_size,
            timeout=timeout,
        )
    try:
        yield
    finally:
        dist.destroy_process_group()


def agreed_number(environment: RankEnvironment) -> int:
    """A random number that the ranks of this group have and no others; all must come here."""
    number = torch.tensor([secrets.randbits(62)])
    if environment.world_size > 1:
        dist.broadcast(number, src=0)
    return int(number.item())
