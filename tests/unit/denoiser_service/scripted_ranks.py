"""A rank group that computes nothing and does what a test says."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from denoiser_service.rank.commands import (
    Abort,
    Aborted,
    Command,
    Failed,
    Finish,
    Finished,
    Prepare,
    Prepared,
    RankReady,
    Reply,
    Save,
    Saved,
    Step,
    StepBatch,
    Stepped,
    SteppedBatch,
)
from services.domain.checkpoint import Checkpoint, CheckpointPart
from services.domain.tensor_ref import TensorRef
from tests.unit.domain.examples import CAPABILITIES, MODEL, STORE, TENSOR_REF, loaded
from triptych.domain.acceleration import CacheMethod, CacheSupport
from triptych.domain.errors import NotFound, RanksLost, TriptychError
from triptych.domain.parallel import ONE_RANK

_CACHING = replace(
    CAPABILITIES, cache_support=CacheSupport(methods=tuple(CacheMethod), blocks=(8,))
)
_MODEL = replace(MODEL, capabilities=_CACHING)
READY = RankReady(loaded=replace(loaded(), model=_MODEL), tensor_store=STORE, pid=1)


async def _nothing(command: Command) -> None:
    # As real ranks do, let everybody else go on meanwhile.
    await asyncio.sleep(0)


def checkpoint_after(steps: int) -> Checkpoint:
    """What they say that they have stored of a request."""
    stored = TENSOR_REF.model_copy(update={"key": f"{steps:032x}"})
    return Checkpoint(steps, (CheckpointPart(0, stored),))


class ScriptedGeneration:
    """The scripted ranks until they die."""

    def __init__(self, group: "ScriptedRanks") -> None:
        self.ready = READY
        self._group = group

    async def execute(self, command: Command) -> Reply:
        return await self._group.execute(self, command)


class ScriptedRanks:
    """Keeps the books a rank keeps: what it never prepared, it does not know.

    Attributes:
        commands: all that were given, as (kind, request id).
        on_command: awaited before each is executed; what it raises is the answer.
        on_reply: called when a reply is on its way.
        held_bytes: what they say that they keep of each request.
        batch_key: what they say of those that are not done.
        failing: requests whose next step fails, if others take it too.
        kept: of requests that have left, after how many steps the checkpoint was taken that was
            not to be released.
    """

    def __init__(self) -> None:
        self.commands: list[tuple[str, str]] = []
        self.on_command: Callable[[Command], Awaitable[None]] = _nothing
        self.on_reply: Callable[[Command], None] = lambda _: None
        self.current: ScriptedGeneration | None = ScriptedGeneration(self)
        self.generation = 1
        self.degrees = ONE_RANK
        self.most_resident = 0
        self.held_bytes = 0
        self.batch_key: str | None = None
        self.failing: set[str] = set()
        self.previews: dict[int, TensorRef] = {}
        self.kept: dict[str, int | None] = {}
        self._steps: dict[str, list[int]] = {}
        self._saved: dict[str, Checkpoint] = {}
        self._rebuilt = asyncio.Event()

    @property
    def held(self) -> set[str]:
        """The requests whose state they hold."""
        return set(self._steps)

    def die(self) -> None:
        self.current = None
        self._steps.clear()
        self._saved.clear()
        self._rebuilt.clear()

    def rebuild(self) -> None:
        self.current = ScriptedGeneration(self)
        self.generation += 1
        self._rebuilt.set()

    async def wait_ready(self) -> None:
        while self.current is None:
            await self._rebuilt.wait()

    async def execute(self, generation: ScriptedGeneration, command: Command) -> Reply:
        self.commands.append((command.kind, command.request_id))
        await self.on_command(command)
        if self.current is not generation:
            raise RanksLost("a rank died; repeat the request")
        if isinstance(command, Prepare):
            resumed = 0 if command.resume is None else command.resume.completed_steps
            self._steps[command.request_id] = [resumed, command.parameters.steps]
            self.most_resident = max(self.most_resident, len(self._steps))
        if isinstance(command, StepBatch):
            batch = SteppedBatch(replies=tuple(map(self._step_of_batch, command.request_ids)))
            self.on_reply(command)
            return batch
        if command.request_id not in self._steps:
            raise NotFound(f"request {command.request_id} is not being denoised here")
        reply = self._reply(command)
        self.on_reply(command)
        return reply

    async def close(self) -> None:
        self.die()

    def _step_of_batch(self, request_id: str) -> Stepped | Failed:
        assert request_id in self._steps
        if request_id in self.failing:
            del self._steps[request_id]
            return Failed.of(request_id, TriptychError("the denoiser failed to step the request"))
        return self._step(request_id)

    def _step(self, request_id: str) -> Stepped:
        self._steps[request_id][0] += 1
        done, total = self._steps[request_id]
        return Stepped(
            request_id=request_id,
            step=done,
            total_steps=total,
            sigma=0.5,
            seconds=1.0,
            held_bytes=self.held_bytes,
            batch_key=self.batch_key if done < total else None,
            preview=self.previews.get(done),
            # As real ranks do, with a step after it was begun.
            saved=(saved,) if (saved := self._saved.pop(request_id, None)) else (),
        )

    def _reply(self, command: Command) -> Reply:
        request_id = command.request_id
        done, total = self._steps[request_id]
        match command:
            case Prepare():
                return Prepared(
                    request_id=request_id,
                    total_steps=total,
                    run_seconds=0.25,
                    transfer_seconds=0.5,
                    held_bytes=self.held_bytes,
                    batch_key=self.batch_key,
                    completed_steps=done,
                )
            case Step():
                return self._step(request_id)
            case Save():
                saved = checkpoint_after(done)
                if not command.wait:
                    self._saved[request_id] = saved
                return Saved(
                    request_id=request_id,
                    checkpoint=saved if command.wait else None,
                    transfer_seconds=0.0,
                )
            case Finish():
                del self._steps[request_id]
                self.kept[request_id] = command.kept
                return Finished(
                    request_id=request_id,
                    latents=TENSOR_REF.model_copy(update={"request_id": request_id}),
                    latents_checksum_xxh3=9,
                    run_seconds=0.25,
                    transfer_seconds=0.5,
                )
            case Abort():
                del self._steps[request_id]
                self.kept[request_id] = command.kept
                return Aborted(request_id=request_id, completed_steps=done)
