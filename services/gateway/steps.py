"""How far the denoising loops of a job are."""

from collections.abc import Sequence


class Steps:
    """Counts steps once, however often they are taken.

    Args:
        stored: of each result, how many steps are in what was stored under earlier claims.
        completed: what was told under them, of all results together.
    """

    def __init__(self, stored: Sequence[int], completed: int) -> None:
        # Of several results nobody knows whose steps were told beyond those: they are told again.
        self._done = [completed] if len(stored) == 1 else [*stored]
        self._before = completed

    @property
    def completed(self) -> int:
        """Of all results together; never fewer than were told before."""
        return max(self._before, sum(self._done))

    def repeated(self, index: int, begin: int) -> int:
        """How many steps of a result are taken again by a loop that begins after so many."""
        return max(0, self._done[index] - begin)

    def take(self, index: int, step: int) -> bool:
        """Takes in that a step of a result is done; returns whether that is news."""
        if step <= self._done[index]:
            return False
        self._done[index] = step
        return True
