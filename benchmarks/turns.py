"""Loops that take turns step by step, so that drifts of the machine meet all of them alike."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import torch

Pause = Callable[[], None]


@dataclass(frozen=True)
class StepTimes:
    """What steps took: processor seconds of their thread, and seconds."""

    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


class Stopwatch:
    """Times the steps of a loop on its thread."""

    def __init__(self) -> None:
        self.times = StepTimes()
        self._began = (0.0, 0.0)

    def start(self) -> None:
        """A step begins."""
        self._began = (time.thread_time(), time.perf_counter())

    def stop(self) -> None:
        """It has ended."""
        processor, wall = self._began
        self.times.processor.append(time.thread_time() - processor)
        self.times.wall.append(time.perf_counter() - wall)


class Turn(Protocol):
    """A loop that stops after every step until it is its turn again.

    Attributes:
        times: of its steps.
        result: what the loop came to, once it has ended.
    """

    times: StepTimes
    result: Any
    ended: bool

    def step(self) -> None:
        """Runs the loop to the end of its next step, or to its end after the last."""


class OwnThread:
    """A loop in a thread of its own that stops after every step until it is its turn again.

    Args:
        loop: calls what it is given after every step; its result is kept.
    """

    def __init__(self, loop: Callable[[Pause], Any]) -> None:
        self._watch = Stopwatch()
        self.times = self._watch.times
        self.result: Any = None
        self.ended = False
        self._loop, self._failure = loop, None
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def step(self) -> None:
        """Runs the loop to the end of its next step, or to its end after the last."""
        self._go.release()
        self._paused.acquire()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        self._wait()
        try:
            # Threads are told apart by the library that counts them.
            torch.set_num_threads(1)
            self.result = self._loop(self._pause)
        except BaseException as error:  # noqa: BLE001 — raised again where the turns are taken
            self._failure = error
        self.ended = True
        self._paused.release()

    def _pause(self) -> None:
        self._watch.stop()
        self._paused.release()
        self._wait()

    def _wait(self) -> None:
        self._go.acquire()
        self._watch.start()


def take_turns(turns: Sequence[Turn]) -> None:
    """Runs all loops to their ends, a step of each in every round, in another order each time."""
    order = Random(0)
    while running := [each for each in turns if not each.ended]:
        for each in order.sample(running, len(running)):
            each.step()
