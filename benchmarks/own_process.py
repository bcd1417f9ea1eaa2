"""A loop in a process of its own, as people run it, that still takes turns with others."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from benchmarks.turns import Pause, StepTimes, Stopwatch

Told = TypeVar("Told")


class OwnProcess:
    """A Turn whose loop has a process to itself, and runs on its main thread.

    Args:
        make: makes the loop from `told`, over there; a function of a module.
        told: what it is told; it must survive being sent to another process.
    """

    def __init__(self, make: Callable[[Told], Callable[[Pause], Any]], told: Told) -> None:
        self.times = StepTimes()
        self.result: Any = None
        self.ended = False
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_run, args=(make, told, there), daemon=True)
        self._process.start()
        there.close()

    def step(self) -> None:
        """Runs the loop to the end of its next step, or to its end after the last.

        Raises:
            EOFError: the process has failed; it has said why.
        """
        self._here.send(None)
        answer = self._here.recv()
        if answer is not None:
            self.times, self.result = answer
            self.ended = True
            self._here.send(None)
            self._process.join()


def _run(make: Callable[[Told], Callable[[Pause], Any]], told: Told, there: Connection) -> None:
    torch.set_num_threads(1)
    loop = make(told)
    watch = Stopwatch()

    def pause() -> None:
        watch.stop()
        there.send(None)
        there.recv()
        watch.start()

    there.recv()
    watch.start()
    result = loop(pause)
    there.send((watch.times, result))
    # Tensors are shared until they have arrived.
    there.recv()
