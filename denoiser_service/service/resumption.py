"""What a request goes on from when its ranks are lost. Pure; loads no torch."""

import math
from collections.abc import Sequence
from typing import Final

from denoiser_service.rank.commands import Checkpoint

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

    Attributes:
        checkpoint: the last one that all ranks have stored; None to begin anew.
    """

    def __init__(self, every: int | None) -> None:
        self._every = every
        self.checkpoint: Checkpoint | None = None
        self._begun_at = 0
        self._steps, self._step_seconds = 0, 0.0
        self._parts: dict[int, dict[int, Checkpoint]] = {}
        self._reached = 0
        self._fruitless = 0

    @property
    def step(self) -> int:
        """After how many steps it goes on."""
        return 0 if self.checkpoint is None else self.checkpoint.step

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
        return max(1, math.ceil(self.checkpoint.seconds / (_BUDGET * mean)))

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

    def take(self, saved: Sequence[Checkpoint | None]) -> None:
        """Some ranks have stored their parts.

        Args:
            saved: by rank; None of those that have nothing new.
        """
        for number, own in enumerate(saved):
            if own is None or own.step <= self.step:
                continue
            parts = self._parts.setdefault(own.step, {})
            parts[number] = own
            if len(parts) == own.degrees.ranks:
                whole = tuple(part for rank in range(len(parts)) for part in parts[rank].parts)
                seconds = max(part.seconds for part in parts.values())
                self.checkpoint = own.model_copy(update={"parts": whole, "seconds": seconds})
                self._parts = {
                    step: later for step, later in self._parts.items() if step > own.step
                }

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
