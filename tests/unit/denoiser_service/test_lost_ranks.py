"""What a supervisor does with ranks that cannot be killed, or not be started."""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import pytest
import structlog

from denoiser_service.rank.channel import RankLink, encode_frame
from denoiser_service.rank.commands import Reply, Step
from denoiser_service.rank_group import rank_process, supervisor
from denoiser_service.rank_group.generation import RankBounds, RankGeneration
from denoiser_service.rank_group.rank_process import RankProcess
from denoiser_service.rank_group.supervisor import RankSupervisor
from tests.unit.denoiser_service.scripted_ranks import READY
from triptych.domain.errors import RanksLost
from triptych.launcher.process import LaunchedProcess

BOUNDS = RankBounds(start=60, command=60, silence=60)
STEP = Step(request_id="a")


class Link:
    """A channel to a rank that says it is ready and nothing more, until it is closed.

    Attributes:
        written: what is on its way to the rank.
    """

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self._closed = asyncio.Event()
        self._said_ready = False

    def write(self, frame: bytes) -> None:
        self.written.append(frame)

    async def drain(self) -> None:
        await asyncio.sleep(0)

    async def receive(self) -> Reply:
        if not self._said_ready:
            self._said_ready = True
            return READY
        await self._closed.wait()
        raise ConnectionError

    async def ended(self) -> None:
        await self._closed.wait()

    def tick(self) -> int:
        return 0

    def close(self) -> None:
        self._closed.set()


class StuckRank:
    """A rank that is not gone when it was killed, as in an uninterruptible sleep.

    Attributes:
        killing: whether somebody waits for it to end.
        give_up: lets whoever waits for it go on.
    """

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.own_link = Link()
        self.link = cast("RankLink", self.own_link)
        self.exit_code: int | None = None
        self.killing = asyncio.Event()
        self.give_up = asyncio.Event()
        self.died = asyncio.Event()

    async def ended(self) -> str:
        await self.died.wait()
        return f"rank {self.number} died"

    async def stop(self) -> None:
        pass

    async def kill(self) -> bool:
        self.killing.set()
        await self.give_up.wait()
        return False


class Source:
    """Gives ranks out as the test makes them; what making one raises is why none can be started."""

    def __init__(self, make: Callable[[], StuckRank]) -> None:
        self._make = make
        self.given: list[StuckRank] = []

    async def gather(self) -> Sequence[StuckRank]:
        self.given.append(self._make())
        return self.given[-1:]

    async def close(self) -> None:
        pass


async def test_health_and_callers_hear_of_a_lost_rank_before_it_is_known_to_have_ended() -> None:
    source = Source(StuckRank)
    group = RankSupervisor(source, bounds=BOUNDS)
    changes: asyncio.Queue[bool] = asyncio.Queue()
    running = asyncio.create_task(group.run(changes.put))
    async with asyncio.timeout(30):
        await group.wait_ready()
        assert group.current is not None
        step = asyncio.create_task(group.current.execute(STEP))
        assert await changes.get() is True
        (rank,) = source.given
        rank.died.set()
        assert await changes.get() is False
        with pytest.raises(RanksLost):
            await step
        assert group.current is None
        await rank.killing.wait()
        assert not running.done()
    rank.give_up.set()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_after_three_ranks_that_could_not_be_killed_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "_pause_seconds", lambda _: 0.0)

    def doomed() -> StuckRank:
        rank = StuckRank()
        rank.died.set()
        rank.give_up.set()
        return rank

    source = Source(doomed)
    group = RankSupervisor(source, bounds=BOUNDS)
    changes: asyncio.Queue[bool] = asyncio.Queue()
    with (
        structlog.testing.capture_logs() as lines,
        pytest.raises(RanksLost, match="3 generations could not be killed"),
    ):
        await asyncio.wait_for(group.run(changes.put), 30)
    assert len(source.given) == 3
    assert [line["event"] for line in lines].count("ranks cannot be killed") == 3


async def test_a_killed_process_is_not_waited_for_without_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Asleep:
        """A process that takes no signal."""

        def kill(self) -> None:
            pass

        async def wait(self) -> int:
            await asyncio.Event().wait()
            return 0

    monkeypatch.setattr(rank_process, "_KILL_SECONDS", 0.05)
    rank = RankProcess(0, cast("LaunchedProcess", Asleep()), cast("RankLink", Link()))
    assert await asyncio.wait_for(rank.kill(), 10) is False


@pytest.mark.parametrize("lacking", [BlockingIOError, OSError])
async def test_ranks_that_cannot_be_started_now_are_started_again(
    monkeypatch: pytest.MonkeyPatch, lacking: type[Exception]
) -> None:
    monkeypatch.setattr(supervisor, "_pause_seconds", lambda _: 0.0)
    tries = iter([lacking, lacking, None])

    def make() -> StuckRank:
        if (error := next(tries)) is not None:
            raise error("Resource temporarily unavailable")
        rank = StuckRank()
        rank.give_up.set()
        return rank

    group = RankSupervisor(Source(make), bounds=BOUNDS)
    changes: asyncio.Queue[bool] = asyncio.Queue()
    running = asyncio.create_task(group.run(changes.put))
    assert await asyncio.wait_for(changes.get(), 30) is True
    assert group.generation == 3
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_command_is_on_its_way_before_the_event_loop_turns_to_anything_else() -> None:
    ranks = [StuckRank(number) for number in range(2)]
    generation = RankGeneration(ranks, BOUNDS)
    await generation.begin()
    executing = generation.execute(STEP)
    executing.send(None)
    for rank in ranks:
        assert rank.own_link.written == [encode_frame(STEP)]
    executing.close()
