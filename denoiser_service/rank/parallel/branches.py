"""CFG-Parallel: ranks run different guidance branches of a step at the same time.

Every rank gets every branch's velocity, so that all of them go on from the same latents.
"""

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist

from denoiser_service.rank.parallel.mesh import Axis
from services.model_ports.forwards import Velocity

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_MAX_DIMENSIONS = 8


class SpreadBranches:
    """See services.model_ports.forwards.BranchRunner.

    Args:
        axis: the ranks that run different branches: branch b is run by rank b modulo their number.
        device: where velocities are.
    """

    share_forwards = False

    def __init__(self, axis: Axis, device: torch.device) -> None:
        self._axis = axis
        self._device = device

    def run(self, branches: Mapping[str, Velocity], /) -> list[torch.Tensor]:
        """Runs this rank's branches; a rank without one waits for the others."""
        axis, names = self._axis, list(branches)
        own = [branches[name]() for name in names[axis.index :: axis.size]]
        if axis.group is None:
            return own
        blank = torch.zeros_like(own[0]) if own else None
        if len(names) < axis.size:
            blank = self._blank(blank)
        assert blank is not None
        rounds = math.ceil(len(names) / axis.size)
        shares = torch.stack([*own, *[blank] * (rounds - len(own))])
        gathered = [torch.empty_like(shares) for _ in axis.ranks]
        dist.all_gather(gathered, shares, group=axis.group)
        return [velocities[number] for number in range(rounds) for velocities in gathered][
            : len(names)
        ]

    def _blank(self, blank: torch.Tensor | None) -> torch.Tensor:
        """Zeros of the shape that the first rank's velocity has; it always has a branch."""
        header = torch.zeros(_MAX_DIMENSIONS + 2, dtype=torch.int64)
        if blank is not None:
            header[:2] = torch.tensor([_DTYPES.index(blank.dtype), blank.dim()])
            header[2 : 2 + blank.dim()] = torch.tensor(blank.shape)
        header = header.to(self._device)
        dist.broadcast(header, src=self._axis.ranks[0], group=self._axis.group)
        kind, dimensions, *shape = header.tolist()
        return torch.zeros(shape[:dimensions], dtype=_DTYPES[kind], device=self._device)
