"""From where a request goes on, at this denoiser or at another one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Interval

from services.domain.tensor_ref import TensorRef
from triptych.domain.events import StepCompleted
from triptych.domain.parallel import ONE_RANK, ParallelDegrees


@dataclass(frozen=True, slots=True)
class CheckpointPart:
    """What one rank of a group has stored.

    Attributes:
        rank: its number; the first one stores the latents, and each what its own cache keeps.
    """

    rank: Annotated[int, Interval(ge=0)]
    tensors: TensorRef


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A request between two of its steps, as the ranks of a denoiser have stored it.

    The last one that a caller was told is its own: it outlives the call, however that ends, and
    the denoiser. Whoever tells a newer one releases it; the job's owner releases it otherwise.

    Attributes:
        completed_steps: how many were done.
        parts: of the ranks that had something to store.
        degrees: how the steps were spread. What caches keep is of use to an equal group alone;
            another one goes on from the latents with empty caches.
        store_seconds: that storing it took, of the rank for which it took longest.
        steps: what was told of them, if a cache decided in them; whoever finishes the request
            counts what was reused in all of its steps.
    """

    completed_steps: Annotated[int, Interval(ge=0)]
    parts: tuple[CheckpointPart, ...]
    degrees: ParallelDegrees = ONE_RANK
    store_seconds: Annotated[float, Interval(ge=0)] = 0.0
    steps: tuple[StepCompleted, ...] = ()

    @classmethod
    def of_ranks(cls, each: Sequence["Checkpoint"]) -> "Checkpoint":
        """The whole one, of what the ranks of a group have stored after the same step.

        Args:
            each: with one rank's part, or none, by the ranks' numbers; at least one.
        """
        return replace(
            each[0],
            parts=tuple(part for one in each for part in one.parts),
            store_seconds=max(one.store_seconds for one in each),
        )

    def part(self, rank: int) -> TensorRef | None:
        """What a rank has stored; None if it had nothing to store."""
        return next((part.tensors for part in self.parts if part.rank == rank), None)
