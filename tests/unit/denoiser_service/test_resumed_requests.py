"""What the step loop does with requests that are saved, when their ranks are lost."""

import asyncio

import pytest

from denoiser_service.rank.commands import Command, Prepare, Save, Step
from services.domain.stages import Denoised, DenoiseEvent, DenoiseStarted
from tests.unit.denoiser_service.fakes import ONE, TWO
from tests.unit.denoiser_service.scheduling import Hold, Scheduling, scheduling
from triptych.domain.errors import RanksLost, StoreFull, TensorNotFound
from triptych.domain.events import StepCompleted


def whole(events: list[DenoiseEvent], steps: int) -> bool:
    """Whether every event came once, in its order."""
    first, *between, last = events
    assert isinstance(first, DenoiseStarted)
    assert isinstance(last, Denoised)
    told = [event.step for event in between if isinstance(event, StepCompleted)]
    return told == list(range(1, steps + 1))


class Dying:
    """Ranks that die at the steps of a request that a test names, and are rebuilt at once.

    Attributes:
        resumed: after how many steps the request was taken in, each time.
    """

    def __init__(self, world: Scheduling, *deaths: int) -> None:
        self._ranks = world.ranks
        self._deaths = list(deaths)
        self._taken = 0
        self.resumed: list[int] = []
        world.ranks.on_command = self

    async def __call__(self, command: Command) -> None:
        if command.request_id != ONE:
            return
        if isinstance(command, Prepare):
            self._taken = 0 if command.resume is None else command.resume.completed_steps
            self.resumed.append(self._taken)
        elif isinstance(command, Step):
            self._taken += 1
            if self._deaths and self._taken == self._deaths[0]:
                self._deaths.pop(0)
                self._ranks.die()
                self._ranks.rebuild()


async def test_a_request_goes_on_from_where_it_was_saved_and_its_caller_hears_each_step_once() -> (
    None
):
    async with scheduling(checkpoint_steps=3) as world:
        dying = Dying(world, 9)
        assert whole(await world.outcome(ONE, steps=12), 12)
        assert dying.resumed == [0, 6]


async def test_a_request_that_was_not_saved_yet_begins_anew() -> None:
    async with scheduling(checkpoint_steps=5) as world:
        dying = Dying(world, 3)
        assert whole(await world.outcome(ONE, steps=8), 8)
        assert dying.resumed == [0, 0]


async def test_at_most_as_many_steps_are_repeated_as_are_between_two_checkpoints() -> None:
    async with scheduling(checkpoint_steps=2) as world:
        dying = Dying(world, 4, 6, 9)
        assert whole(await world.outcome(ONE, steps=12), 12)
        lost = [
            death - 1 - resumed for death, resumed in zip((4, 6, 9), dying.resumed[1:], strict=True)
        ]
        # One more step is made while it is stored.
        assert all(steps <= 3 for steps in lost), lost


async def test_others_that_were_resident_go_on_too_and_those_that_wait_wait() -> None:
    async with scheduling(checkpoint_steps=2, max_resident=2) as world:
        Dying(world, 5)
        tasks = [world.start(name, steps=8) for name in (ONE, TWO, "3" * 32)]
        for task in tasks:
            assert whole(await task, 8)


async def test_a_request_that_kills_its_ranks_again_and_again_ends() -> None:
    async with scheduling(checkpoint_steps=2) as world:
        Dying(world, *[5] * 10)
        with pytest.raises(RanksLost):
            await world.outcome(ONE, steps=8)


async def test_a_request_whose_checkpoint_is_gone_begins_anew() -> None:
    async with scheduling(checkpoint_steps=2) as world:
        dying = Dying(world, 5)

        async def gone(command: Command) -> None:
            await dying(command)
            if isinstance(command, Prepare) and command.resume is not None:
                raise TensorNotFound("released")

        world.ranks.on_command = gone
        assert whole(await world.outcome(ONE, steps=8), 8)
        assert dying.resumed == [0, 2, 0]


async def test_a_request_that_cannot_be_saved_is_denoised_nonetheless() -> None:
    async with scheduling(checkpoint_steps=2) as world:

        async def full(command: Command) -> None:
            if isinstance(command, Save):
                raise StoreFull("no room")

        world.ranks.on_command = full
        assert whole(await world.outcome(ONE, steps=6), 6)
        assert world.commands_for(ONE).count("save") == 2


async def test_a_request_that_is_cancelled_while_it_waits_to_go_on_leaves_its_checkpoint() -> None:
    async with scheduling(checkpoint_steps=2) as world:
        hold = Hold(world.ranks, "step", ONE, 4)
        task = world.start(ONE, steps=8)
        await hold.reached.wait()
        world.ranks.die()
        hold.go.set()
        # Nobody is ready to take it in.
        while world.scheduler.running:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0)
        world.scheduler.cancel(ONE)
        with pytest.raises(Exception, match="cancelled while denoising"):
            await task
        world.ranks.rebuild()
        # It was told: whoever asked may have another denoiser go on.
        assert world.released == []
