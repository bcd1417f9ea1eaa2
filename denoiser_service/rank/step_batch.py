"""A step of several requests at once, each on its own but for the forwards they have in common."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, TypeVar

from denoiser_service.rank.commands import Failed, Step, StepBatch, Stepped, SteppedBatch
from denoiser_service.rank.joint_forward import Answers, Forward, grouped, run_together
from denoiser_service.rank.stage import DenoiseStage
from services.model_ports.forwards import Rows

T = TypeVar("T")


class Attempt(Protocol):
    """Does something on behalf of a command; what it raises becomes a Failed."""

    def __call__(self, command: Step | StepBatch, action: Callable[[], T], /) -> T | Failed:
        """What the action gives, or a Failed."""
        ...


def step_batch(
    stage: DenoiseStage, rows: Rows, command: StepBatch, attempt: Attempt
) -> SteppedBatch | Failed:
    """Every request's step, or how it failed; one that fails does not touch the others.

    Args:
        stage: that holds the requests.
        rows: of its transformers.
        command: which requests.
        attempt: how failures are told.

    Returns:
        A Failed if no request can go on here.
    """
    began = time.perf_counter()
    waiting = {request_id: Answers() for request_id in command.request_ids}
    replies: dict[str, Stepped | Failed] = {}
    while waiting:
        forwards: dict[str, Forward] = {}
        for request_id, answers in waiting.items():
            step = partial(stage.step_with, request_id, answers)
            done = attempt(Step(request_id=request_id), step)
            if isinstance(done, Failed) and done.fatal:
                return done
            if isinstance(done, Forward):
                forwards[request_id] = done
            elif isinstance(done, Stepped):
                seconds = time.perf_counter() - began
                replies[request_id] = done.model_copy(update={"seconds": seconds})
            else:
                replies[request_id] = done
        waiting = {request_id: waiting[request_id] for request_id in forwards}
        if failed := _answer(command, waiting, forwards, rows, attempt):
            return failed
    return SteppedBatch(replies=tuple(replies[request_id] for request_id in command.request_ids))


def _answer(
    command: StepBatch,
    waiting: Mapping[str, Answers],
    forwards: Mapping[str, Forward],
    rows: Rows,
    attempt: Attempt,
) -> Failed | None:
    """Makes the next forward of every step known; a Failed if the device is gone."""
    groups = attempt(command, partial(grouped, forwards, rows))
    if isinstance(groups, Failed):
        if groups.fatal:
            return groups
        # Comparing takes memory, too; none of them need be compared to go alone.
        groups = [[request_id] for request_id in forwards]
    for group in groups:
        together = partial(run_together, [forwards[request_id] for request_id in group], rows)
        outputs = attempt(command, together) if len(group) > 1 else None
        if isinstance(outputs, Failed) and outputs.fatal:
            return outputs
        if outputs is None or isinstance(outputs, Failed):
            # Whatever they could not do together, memory for example, each may do alone.
            for request_id in group:
                waiting[request_id].go_alone()
        else:
            for request_id, output in zip(group, outputs, strict=True):
                waiting[request_id].add(output)
    return None
