"""What the service sees of its ranks, and a group of the ranks in it, wherever they run."""

from collections.abc import Sequence
from typing import Protocol

from denoiser_service.rank.channel import RankLink
from denoiser_service.rank.commands import Command, Failed, RankReady, Reply
from triptych.domain.errors import FieldViolation, RemoteFailure, TriptychError
from triptych.domain.parallel import ParallelDegrees


class RankGroup(Protocol):
    """Executes commands in the order they are given, one at a time."""

    @property
    def ready(self) -> RankReady | None:
        """What the ranks hold, or None while they are being (re)built."""
        ...

    @property
    def degrees(self) -> ParallelDegrees:
        """How many ranks there are, and how they share steps."""
        ...

    @property
    def generation(self) -> int:
        """Counts rebuilds after a rank died."""
        ...

    async def wait_ready(self) -> RankReady:
        """Waits until the ranks hold their model.

        Raises:
            ConfigurationError: they never will.
        """
        ...

    async def execute(self, command: Command) -> Reply:
        """Has every rank execute a command; never a Failed reply, but what it stands for.

        Raises:
            RanksLost: a rank died or hung; every request's state is gone, the rebuild has begun.
            TriptychError: what the ranks refused or failed at.
        """
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

    async def kill(self) -> None:
        """Ends it, whatever it is doing."""
        ...


class RankSource(Protocol):
    """Where the ranks of each generation come from."""

    async def gather(self) -> Sequence[Rank]:
        """Fresh ones, by number, which will say that they are ready.

        Raises:
            ConfigurationError: there never will be any.
        """
        ...

    async def close(self) -> None:
        """There will be no further generation."""
        ...


def error_of(reply: Failed) -> TriptychError:
    """The error a Failed reply stands for."""
    return RemoteFailure(
        reply.message,
        status=reply.status,
        reason=reply.reason,
        violations=[FieldViolation(each.field, each.description) for each in reply.violations],
        retry_after_seconds=reply.retry_after_seconds,
    )
