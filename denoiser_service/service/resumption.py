"""What a request goes on from when its ranks are lost. Pure; loads no torch."""

import math
from collections.abc import Sequence
from typing import Final

from services.domain.checkpoint import Checkpoint

_MAX_FRUITLESS: Final = 3
"""Losses without a step that was not done before, until the request itself is suspected."""
_BUDGET: Final = 0.01
"""The share of its steps' time that storing may take, where that decides when it is saved."""
_FIRST: Final = 4
"""Steps before the first time, when nobody knows yet what storing takes."""


class Resumption:
    """Decides when a request is saved, and whether it is tried again.

    Args:
        every: after how many steps it is saved; 0 for a request that ends with its ranks, None to
            have it decided by what storing it takes.
        checkpoint: what it goes on from at first.

    Attributes:
        checkpoint: the last one that all ranks have stored; None to begin anew.
    """

    def __init__(self, every: int | None, checkpoint: Checkpoint | None = None) -> None:
        self._every = every
        self.checkpoint = checkpoint
        self._begun_at = self.step
        self._steps, self._step_seconds = 0, 0.0
        self._parts: dict[int, dict[int, Checkpoint]] = {}
        self._reached = self.step
        self._fruitless = 0

    @property
    def step(self) -> int:
        """After how many steps it goes on."""
        return 0 if self.checkpoint is None else self.checkpoint.completed_steps

    @property
    def kept(self) -> int | None:
        """The step of the checkpoint that the ranks are to keep, if there is one."""
        return None if self.checkpoint is None else self.step

    @property
    def _saves(self) -> bool:
        return self._every is None or self._every > 0

    @property
    def _interval(self) -> int:
        """After how many steps it is saved."""
        if self._every is not None:
            return self._every
        if self.checkpoint is None or not self._step_seconds:
            return _FIRST
        mean = self._step_seconds / self._steps
        return max(1, math.ceil(self.checkpoint.store_seconds / (_BUDGET * mean)))

    def stepped(self, seconds: float) -> None:
        """A step took so many seconds."""
        self._steps += 1
        self._step_seconds += seconds

    def due(self, completed: int, total: int) -> bool:
        """Whether it is to be saved now.

        Args:
            completed: steps that are done.
            total: of its steps; after the last there is nothing left to lose.
        """
        return self._saves and self._begun_at + self._interval <= completed < total

    def begin(self, completed: int) -> None:
        """The ranks were told to save it."""
        self._begun_at = completed

    def take(self, saved: Sequence[Checkpoint | None]) -> Checkpoint | None:
        """Some ranks have stored their parts.

        Args:
            saved: by rank; None of those that have nothing new.

        Returns:
            The checkpoint that counts from now on, if it is another one than before.
        """
        before = self.checkpoint
        for number, own in enumerate(saved):
            if own is None or own.completed_steps <= self.step:
                continue
            parts = self._parts.setdefault(own.completed_steps, {})
            parts[number] = own
            if len(parts) == own.degrees.ranks:
                self.saved(Checkpoint.of_ranks([parts[rank] for rank in range(len(parts))]))
        return None if self.checkpoint is before else self.checkpoint

    def saved(self, checkpoint: Checkpoint) -> None:
        """All ranks have stored it."""
        self.checkpoint = checkpoint
        self._parts = {step: later for step, later in self._parts.items() if step > self.step}

    def lost(self, completed: int) -> bool:
        """Its ranks are gone; whether others are to try it.

        Args:
            completed: steps that were done.
        """
        self._fruitless = 0 if completed > self._reached else self._fruitless + 1
        self._reached = max(self._reached, completed)
        # Those who would store the other parts are gone.
        self._parts.clear()
        self._begun_at = self.step
        return self._saves and self._fruitless < _MAX_FRUITLESS

    def forget(self) -> None:
        """The checkpoint cannot be gone on from; it begins anew."""
        self.checkpoint, self._begun_at = None, 0
