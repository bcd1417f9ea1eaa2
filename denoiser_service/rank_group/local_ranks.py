"""Ranks that are started here, as torchrun would start them. Loads no torch."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Final

from denoiser_service.rank_group.rank_process import RankProcess
from triptych.launcher.launcher import Launcher

RANK: Final = "denoiser_service.rank"
_LOOPBACK: Final = "127.0.0.1"


class LocalRanks:
    """Starts the ranks of each generation in processes of their own.

    Args:
        flags: every rank's; those of its channel are added.
        count: how many there are.
        beat_seconds: how often they say that they are alive.
        launcher: starts their processes; closed with this.
        module: what to run as a rank.
    """

    def __init__(
        self,
        flags: Sequence[str],
        count: int,
        beat_seconds: float,
        launcher: Launcher,
        module: str = RANK,
    ) -> None:
        self._command = (module, *flags, f"--beat-seconds={beat_seconds:g}")
        self._count = count
        self._launcher = launcher

    async def gather(self) -> Sequence[RankProcess]:
        """Starts all of them, with the environment that torchrun would give them."""
        started: list[RankProcess] = []
        # The port is bound here and inherited: nobody else can take it, nor join the group from
        # another host, since the rendezvous asks for no password.
        with socket.create_server((_LOOPBACK, 0)) as rendezvous:
            environment = self._environment(rendezvous)
            host = ["--rendezvous-fd", str(rendezvous.fileno())] if self._count > 1 else []
            try:
                for number in range(self._count):
                    own = {"RANK": str(number), "LOCAL_RANK": str(number)}
                    rank = await RankProcess.start(
                        self._launcher,
                        number,
                        [*self._command, *(host if number == 0 else ())],
                        environment | own,
                        [rendezvous.fileno()] if host and number == 0 else [],
                    )
                    started.append(rank)
            except BaseException:
                # Cancelled or failed: those that were started are nobody's yet.
                await asyncio.gather(*(each.kill() for each in started))
                raise
        return started

    async def close(self) -> None:
        """No further generation is started."""
        await self._launcher.close()

    def _environment(self, rendezvous: socket.socket) -> dict[str, str]:
        """What torchrun tells every worker of one node; gloo and NCCL are kept on this host."""
        return {
            "WORLD_SIZE": str(self._count),
            "LOCAL_WORLD_SIZE": str(self._count),
            "MASTER_ADDR": _LOOPBACK,
            "MASTER_PORT": str(rendezvous.getsockname()[1]),
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
        }
