"""A rank's place in torch.distributed's default group."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

from denoiser_service.rank.rank_environment import RankEnvironment


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
