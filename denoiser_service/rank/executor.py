"""Executes commands: what a rank does in its process, and a fused denoiser on its thread."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from denoiser_service.rank.channel import RankChannel
from denoiser_service.rank.commands import (
    Abort,
    Command,
    Failed,
    Finish,
    Prepare,
    Reply,
    Save,
    Step,
    StepBatch,
    Stepped,
)
from denoiser_service.rank.stage import DenoiseStage
from denoiser_service.rank.step_batch import step_batch
from services.domain.stages import DenoiseRequest
from services.observability.logs import get_logger
from services.observability.tracing import span
from services.torch_setup.device_errors import breaks_device
from triptych.domain.deadline import Deadline
from triptych.domain.errors import ResourceExhausted, TriptychError

_log = get_logger(__name__)
T = TypeVar("T")


class RankExecutor:
    """Turns every command into exactly one reply, whatever happens inside it. For one thread.

    Args:
        stage: what executes them.
        alone: whether no other rank takes part in its steps. Otherwise one that breaks off a step
            leaves the others waiting for it, and can join them again only from the start.
        number: the rank's place in its group.
    """

    def __init__(self, stage: DenoiseStage, *, alone: bool = True, number: int = 0) -> None:
        self._stage = stage
        self._alone = alone
        self._number = number

    def serve(self, channel: RankChannel, *, idle: Callable[[], None], idle_seconds: float) -> bool:
        """Executes what comes by the channel until it ends.

        Args:
            channel: to the supervisor.
            idle: called again and again while nothing comes.
            idle_seconds: how long nothing comes before that.

        Returns:
            Whether the rank could go on; not if it said that it cannot.
        """
        while True:
            while not channel.wait(idle_seconds):
                idle()
            command = channel.receive()
            if command is None:
                return True
            reply = self.execute(command)
            channel.send(reply)
            if isinstance(reply, Failed) and reply.fatal:
                return False

    def execute(self, command: Command) -> Reply:
        """Never raises: a rank that broke off would leave the supervisor waiting."""
        return self._attempt(command, partial(self._traced, command))

    def _traced(self, command: Command) -> Reply:
        if not isinstance(command, Prepare | Step | Finish) or command.trace is None:
            return self._execute(command)
        rank = {"triptych.rank": self._number}
        with span(command.kind, rank, parent=command.trace) as begun:
            reply = self._execute(command)
            if isinstance(reply, Stepped):
                begun.set_attribute("triptych.step", reply.step)
            return reply

    def _attempt(self, command: Command, action: Callable[[], T]) -> T | Failed:
        try:
            return action()
        except TriptychError as error:
            return Failed.of(command.request_id, error)
        except (torch.OutOfMemoryError, MemoryError):
            _log.exception("out of memory", request_id=command.request_id)
            message = f"the denoiser has no memory left to {command.kind} the request"
            fatal = self._strands_others(command)
            return Failed.of(command.request_id, ResourceExhausted(message), fatal=fatal)
        # A defect met by one request must not end the others'.
        except Exception as error:  # noqa: BLE001 - what it is cannot be known beforehand
            _log.exception("command failed", kind=command.kind, request_id=command.request_id)
            message = f"the denoiser failed to {command.kind} the request: {type(error).__name__}"
            # After an error of its own a device gives no right results in this process any more.
            fatal = breaks_device(error) or self._strands_others(command)
            return Failed.of(command.request_id, TriptychError(message), fatal=fatal)

    def _strands_others(self, command: Command) -> bool:
        return isinstance(command, Step | StepBatch) and not self._alone

    def _execute(self, command: Command) -> Reply:
        match command:
            case Prepare():
                request = DenoiseRequest(
                    request_id=command.stored_as or command.request_id,
                    image_index=command.image_index,
                    tenant=command.tenant,
                    parameters=command.parameters,
                    conditioning=command.conditioning,
                    image_latents=command.image_latents,
                )
                left = command.remaining_seconds
                deadline = None if left is None else Deadline.after(left)
                return self._stage.prepare(
                    request, deadline, shares_steps=command.shares_steps, resume=command.resume
                )
            case Step():
                return self._stage.step(command.request_id)
            case StepBatch():
                if self._stage.rows is None:
                    raise TriptychError("requests take their steps alone here")
                return step_batch(self._stage, self._stage.rows, command, self._attempt)
            case Save():
                return self._stage.save(command.request_id, command.kept, wait=command.wait)
            case Finish():
                return self._stage.finish(command.request_id, command.kept)
            case Abort():
                return self._stage.abort(command.request_id, command.kept)
