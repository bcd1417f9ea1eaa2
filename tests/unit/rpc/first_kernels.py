"""The first kernel of every thread that computes, against the same one on the main thread."""

import asyncio
from typing import Any, cast

import torch

from denoiser_service.rank.commands import RankReady
from denoiser_service.rank.executor import RankExecutor
from denoiser_service.rank_group.thread_rank import ThreadRankGroup
from services.rpc.worker import StageWorker
from services.torch_setup.runtime import hold_threads, set_up_torch
from triptych.domain.deadline import Deadline
from triptych.domain.model import Stage

# Of sizes whose sums come out otherwise when two threads share them.
_GENERATOR = torch.Generator().manual_seed(0)
_PICTURE = torch.randn(7, 512, generator=_GENERATOR)
_WEIGHTS = torch.randn(384, 512, generator=_GENERATOR)


class _Executor:
    """Executes any command by the one kernel."""

    def execute(self, _: object) -> torch.Tensor:
        return kernel()


def kernel() -> torch.Tensor:
    """One product of matrices, which asks torch for no number of threads."""
    return torch.nn.functional.linear(_PICTURE, _WEIGHTS)


async def _on_each_thread() -> dict[str, torch.Tensor]:
    worker = StageWorker(Stage.VAE, 1, hold_threads, command_seconds=60)
    ranks = ThreadRankGroup(
        cast("RankExecutor", _Executor()), cast("RankReady", None), hold_threads
    )
    timed = await worker.run(kernel, deadline=Deadline.after(60), discard=lambda _: None)
    command: Any = None
    drawn: Any = await ranks.execute(command)
    await worker.close()
    await ranks.close()
    return {"a stage's worker": timed.value, "a rank's thread": drawn}


if __name__ == "__main__":
    set_up_torch(1)
    wanted = kernel()
    for name, first in asyncio.run(_on_each_thread()).items():
        assert torch.equal(first, wanted), f"the first kernel on {name} has other bits"
