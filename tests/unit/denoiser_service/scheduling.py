"""A scheduler over ranks that compute nothing."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

from denoiser_service.rank.commands import Command
from denoiser_service.service.admission import Admission
from denoiser_service.service.policy import Order, Policy
from denoiser_service.service.room import Room
from denoiser_service.service.scheduler import StepScheduler
from denoiser_service.service.turns import Release, Turns
from services.domain.checkpoint import Checkpoint
from services.domain.stages import DenoiseEvent, DenoiseRequest
from services.domain.tensor_ref import TensorRef
from services.model_ports.sizes import Residency
from tests.unit.denoiser_service.scripted_ranks import ScriptedRanks
from tests.unit.domain.examples import PARAMETERS, TENSOR_REF
from triptych.domain.acceleration import NO_CACHE, Cache
from triptych.domain.deadline import Deadline

RESIDENCY = Residency(
    state_bytes=100, hidden_bytes=10, encoder_bytes=5, signal_bytes=10, forwards=2
)
PREVIEWS = {step: TENSOR_REF.model_copy(update={"key": f"{step:032x}"}) for step in (1, 2)}
"""For the ranks to say that they store them."""


def latents_of(name: str) -> TensorRef:
    """What the ranks store of a request that is done."""
    return TENSOR_REF.model_copy(update={"request_id": name})


class Scheduling:
    """A running scheduler over scripted ranks."""

    def __init__(self, **options: Any) -> None:
        self.ranks = ScriptedRanks()
        self.released: list[TensorRef] = []
        self.release: Release = self._note
        told: dict[str, Any] = {
            "order": Order.ROUND_ROBIN,
            "estimate": lambda request: RESIDENCY,
            "max_queued": 8,
            "max_step_batch": 1,
        } | options
        room = Room(told.get("max_resident", 4), told.get("max_resident_bytes"))
        batch = told["max_step_batch"]
        self.scheduler = StepScheduler(
            self.ranks,
            Admission(room, told["max_queued"], told["estimate"]),
            Policy(told["order"], room, batch),
            Turns(self.ranks, self._release, shares_steps=batch > 1),
            told.get("checkpoint_steps", 0),
        )

    def stream(
        self,
        name: str,
        *,
        steps: int = 3,
        deadline: Deadline | None = None,
        cache: Cache = NO_CACHE,
        image_index: int = 0,
        attempt: int = 0,
        resume_from: Checkpoint | None = None,
        can_hand_over: bool = False,
        **changes: object,
    ) -> AsyncGenerator[DenoiseEvent, None]:
        changes |= {"steps": steps, "cache": cache}
        parameters = replace(PARAMETERS, **changes)
        request = DenoiseRequest(
            *(name, "default", parameters, TENSOR_REF),
            image_index=image_index,
            attempt=attempt,
            resume_from=resume_from,
            can_hand_over=can_hand_over,
        )
        return self.scheduler.denoise(request, deadline or Deadline.after(600))

    async def outcome(self, name: str, **options: Any) -> list[DenoiseEvent]:
        async with aclosing(self.stream(name, **options)) as events:
            return [event async for event in events]

    def start(self, name: str, **options: Any) -> asyncio.Task[list[DenoiseEvent]]:
        return asyncio.create_task(self.outcome(name, **options))

    def commands_for(self, name: str) -> list[str]:
        return [
            kind for kind, request_ids in self.ranks.commands if name in request_ids.split(", ")
        ]

    async def releases(self, count: int) -> list[TensorRef]:
        """What was released, once it is so much."""
        while len(self.released) < count:  # noqa: ASYNC110 - nobody waits for a release
            await asyncio.sleep(0)
        return self.released

    async def _release(self, ref: TensorRef) -> object:
        return await self.release(ref)

    async def _note(self, ref: TensorRef) -> None:
        self.released.append(ref)


@asynccontextmanager
async def scheduling(**options: Any) -> AsyncIterator[Scheduling]:
    each = Scheduling(**options)
    loop = asyncio.create_task(each.scheduler.run())
    try:
        async with asyncio.timeout(30):
            yield each
        # A loop that ended by itself failed; that must not pass unseen.
        assert not loop.done(), loop
        assert each.scheduler.running == each.scheduler.queued == 0
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


class Hold:
    """Stops the ranks at one command until the test lets them go."""

    def __init__(self, ranks: ScriptedRanks, kind: str, name: str, count: int = 1) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()
        self._what = (kind, name)
        self._count = count
        ranks.on_command = self

    async def __call__(self, command: Command) -> None:
        if (command.kind, command.request_id) == self._what:
            self._count -= 1
            if self._count == 0:
                self.reached.set()
                await self.go.wait()


def passed(deadline: Deadline) -> None:
    """Lets the time go by."""
    object.__setattr__(deadline, "monotonic_time", 0.0)
