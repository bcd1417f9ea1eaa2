"""How far the denoising loops of a job are."""

from triptych.domain.generation import GenerationParameters


class Steps:
    """Counts steps once, however often they are taken.

    Args:
        parameters: of the job.
        completed: what was told under earlier claims, of all results together.
    """

    def __init__(self, parameters: GenerationParameters, completed: int) -> None:
        self._done = [0] * parameters.num_images
        self._before = completed
        if len(self._done) == 1:
            self._done[0] = completed

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
