"""What the service sees of its ranks, and a group of the ranks in it, wherever they run."""

from collections.abc import Sequence
from typing import Protocol

from denoiser_service.rank.channel import RankLink
from denoiser_service.rank.commands import Command, RankReady, Reply
from triptych.domain.parallel import ParallelDegrees


class Ranks(Protocol):
    """The ranks of one generation: what they hold ends with them."""

    @property
    def ready(self) -> RankReady:
        """What they said when they were ready."""
        ...

    async def execute(self, command: Command) -> Reply:
        """Has every rank execute a command, one at a time; never gives Failed, but raises it.

        Raises:
            RanksLost: a rank died or hung; every request's state is gone.
            TriptychError: what the ranks refused or failed at.
        """
        ...


class RankGroup(Protocol):
    """Keeps ranks at work, one generation after the other."""

    @property
    def current(self) -> Ranks | None:
        """The ranks of this generation; None while they are being (re)built."""
        ...

    @property
    def degrees(self) -> ParallelDegrees:
        """How many ranks there are, and how they share steps."""
        ...

    @property
    def generation(self) -> int:
        """Counts rebuilds after a rank died."""
        ...

    async def wait_ready(self) -> None:
        """Waits until there are current ranks."""
        ...

    async def close(self) -> None:
        """Ends the ranks."""
        ...


class Rank(Protocol):
    """One rank, whoever started it.

    Attributes:
        number: its place in the group.
        link: the channel to it.
    """

    number: int
    link: RankLink

    @property
    def exit_code(self) -> int | None:
        """Of its process; None while it runs, or where others collect it."""
        ...

    async def ended(self) -> str:
        """Waits until it or its channel ends; returns how."""
        ...

    async def stop(self) -> None:
        """Lets it end by itself if it is idle."""
        ...

    async def kill(self) -> bool:
        """Ends it, whatever it is doing; returns whether it is gone, after a bounded time."""
        ...


class RankSource(Protocol):
    """Where the ranks of each generation come from."""

    async def gather(self) -> Sequence[Rank]:
        """Fresh ones, by number, which will say that they are ready.

        Raises:
            OSError: they cannot be started now.
            ConfigurationError: there never will be any.
        """
        ...

    async def close(self) -> None:
        """There will be no further generation."""
        ...
