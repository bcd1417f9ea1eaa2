import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial

import pytest

from services.rpc.worker import StageWorker, Timed
from triptych.domain.deadline import Deadline
from triptych.domain.errors import DeadlineExceeded, QueueFull, StageUnavailable, StoreFull
from triptych.domain.model import Stage


class DeviceFailed(Exception):
    """What no later work survives."""


class Piece:
    """Work that tells when it begins and ends when the test lets it."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.may_end = threading.Event()

    def __call__(self) -> str:
        self.began.set()
        assert self.may_end.wait(30)
        return "result"


class Working:
    """A worker, and what it discarded."""

    def __init__(self, max_queued: int, command_seconds: float) -> None:
        self.worker = StageWorker(
            Stage.ENCODER,
            max_queued,
            lambda: None,
            command_seconds=command_seconds,
            breaks=lambda error: isinstance(error, DeviceFailed),
        )
        self.discarded: list[str] = []
        self.discarded_on: list[str] = []
        self.undone = threading.Event()

    def start(
        self, work: Callable[[], str], deadline: Deadline | None = None
    ) -> asyncio.Task[Timed[str]]:
        return asyncio.create_task(
            self.worker.run(work, deadline=deadline or Deadline.after(600), discard=self._discard)
        )

    async def begun(
        self, deadline: Deadline | None = None
    ) -> tuple[asyncio.Task[Timed[str]], Piece]:
        piece = Piece()
        task = self.start(piece, deadline)
        assert await asyncio.to_thread(piece.began.wait, 30)
        return task, piece

    def _discard(self, result: str) -> None:
        self.discarded.append(result)
        self.discarded_on.append(threading.current_thread().name)
        self.undone.set()


@asynccontextmanager
async def _working(max_queued: int = 2, command_seconds: float = 600) -> AsyncIterator[Working]:
    working = Working(max_queued, command_seconds)
    try:
        async with asyncio.timeout(40):
            yield working
    finally:
        await working.worker.close()
    assert working.worker.running == working.worker.queued == 0


def _note(ran: list[str]) -> str:
    ran.append("it ran")
    return "result"


async def _cancelled(task: asyncio.Task[Timed[str]]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_runs_in_the_order_it_came_one_piece_at_a_time() -> None:
    order: list[int] = []
    busy = threading.Lock()

    def work(number: int) -> str:
        with busy:
            order.append(number)
        return str(number)

    async with _working(max_queued=10) as working:
        tasks = [working.start(partial(work, number)) for number in range(8)]
        results = await asyncio.gather(*tasks)
    assert order == list(range(8))
    assert [each.value for each in results] == [str(number) for number in range(8)]


async def test_the_wait_for_the_thread_is_told_apart_from_the_work() -> None:
    async with _working() as working:
        first, piece = await working.begun()
        second = working.start(lambda: "quick")
        await asyncio.sleep(0)
        asked = time.monotonic()
        # However long or short this takes, the second piece waits for all of it.
        await asyncio.to_thread(int)
        released = time.monotonic()
        piece.may_end.set()
        await first
        assert (await second).queue_seconds >= released - asked


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    async with _working(max_queued=1) as working:
        first, piece = await working.begun()
        second = working.start(lambda: "second")
        await asyncio.sleep(0)
        assert (working.worker.running, working.worker.queued) == (1, 1)
        with pytest.raises(
            QueueFull, match=r"the encoder's queue is full \(1 requests wait\)"
        ) as c:
            await working.start(lambda: "third")
        assert c.value.retry_after_seconds is not None
        assert c.value.retry_after_seconds > 0
        piece.may_end.set()
        assert [(await each).value for each in (first, second)] == ["result", "second"]
        assert (await working.start(lambda: "fourth")).value == "fourth"


async def test_abandoned_work_never_runs_and_frees_its_place_at_once() -> None:
    ran: list[str] = []
    async with _working(max_queued=1) as working:
        first, piece = await working.begun()
        second = working.start(partial(_note, ran))
        await asyncio.sleep(0)
        await _cancelled(second)
        await asyncio.sleep(0)
        third = working.start(lambda: "third")
        await asyncio.sleep(0)
        piece.may_end.set()
        assert (await third).value == "third"
        await first
    assert ran == []
    assert working.discarded == []


async def test_a_result_that_comes_after_its_caller_left_is_discarded() -> None:
    async with _working() as working:
        task, piece = await working.begun()
        await _cancelled(task)
        assert working.discarded == []
        piece.may_end.set()
        assert (await working.start(lambda: "next")).value == "next"
    assert working.discarded == ["result"]
    assert working.discarded_on != [threading.main_thread().name]


async def test_a_late_result_is_discarded_even_while_the_worker_closes() -> None:
    async with _working() as working:
        task, piece = await working.begun()
        await _cancelled(task)
        closing = asyncio.create_task(working.worker.close())
        await asyncio.sleep(0)
        assert working.worker.draining
        piece.may_end.set()
        await closing
    assert working.discarded == ["result"]


async def test_a_late_failure_is_nobodys() -> None:
    async with _working() as working:
        began, may_end = threading.Event(), threading.Event()

        def fail() -> str:
            began.set()
            assert may_end.wait(30)
            raise StoreFull("no room")

        task = working.start(fail)
        await asyncio.to_thread(began.wait, 30)
        await _cancelled(task)
        may_end.set()
        assert (await working.start(lambda: "next")).value == "next"
    assert working.discarded == []


async def test_what_the_work_raises_is_the_callers() -> None:
    def fail() -> str:
        raise StoreFull("no room")

    async with _working() as working:
        with pytest.raises(StoreFull, match="no room"):
            await working.start(fail)


async def test_a_deadline_that_passed_in_the_queue_is_told_and_nothing_runs() -> None:
    ran: list[str] = []
    async with _working() as working:
        task = working.start(partial(_note, ran), Deadline.after(-1))
        with pytest.raises(DeadlineExceeded, match="while waiting for the encoder"):
            await task
    assert ran == []


async def test_a_draining_worker_finishes_what_it_has_and_takes_no_more() -> None:
    async with _working() as working:
        first, piece = await working.begun()
        second = working.start(lambda: "second")
        await asyncio.sleep(0)
        working.worker.draining = True
        with pytest.raises(StageUnavailable, match="the encoder is draining"):
            await working.start(lambda: "third")
        piece.may_end.set()
        assert [(await each).value for each in (first, second)] == ["result", "second"]


async def test_the_callers_context_goes_along_with_the_work() -> None:
    request_id = ContextVar("request_id", default="none")
    async with _working() as working:
        request_id.set("mine")
        assert (await working.start(request_id.get)).value == "mine"


async def test_work_that_hangs_breaks_the_worker_and_all_who_wait_are_told() -> None:
    async with _working(command_seconds=0.05) as working:
        first, piece = await working.begun()
        second = working.start(lambda: "second")
        for task in (first, second):
            with pytest.raises(StageUnavailable, match=r"encoder hangs: .* more than 0\.05 s"):
                await task
        assert "hangs" in str(await working.worker.broken())
        with pytest.raises(StageUnavailable, match="hangs"):
            await working.start(lambda: "third")
        assert working.worker.draining
        # A worker that hangs is not waited for.
        await asyncio.wait_for(working.worker.close(), 20)
        piece.may_end.set()
        assert await asyncio.to_thread(working.undone.wait, 30)
    # What came of it, after all, is undone.
    assert working.discarded == ["result"]


async def test_work_that_ends_in_time_may_be_followed_by_idle_time() -> None:
    async with _working(command_seconds=0.05) as working:
        assert (await working.start(lambda: "quick")).value == "quick"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(working.worker.broken(), 0.2)
        assert (await working.start(lambda: "later")).value == "later"


async def test_an_error_that_the_device_does_not_survive_breaks_the_worker() -> None:
    def fail() -> str:
        raise DeviceFailed

    async with _working() as working:
        with pytest.raises(StageUnavailable, match="the encoder's device failed; repeat"):
            await working.start(fail)
        assert "device failed" in str(await working.worker.broken())
        with pytest.raises(StageUnavailable, match="device failed"):
            await working.start(lambda: "next")


async def test_any_other_error_is_its_callers_alone() -> None:
    def fail() -> str:
        raise StoreFull("no room")

    async with _working() as working:
        with pytest.raises(StoreFull):
            await working.start(fail)
        assert (await working.start(lambda: "next")).value == "next"


async def test_what_is_undone_late_never_holds_up_the_event_loop() -> None:
    async with _working() as working:
        second = Piece()
        task, other = working.start(lambda: "result"), working.start(second)
        await asyncio.sleep(0)
        # Without the event loop: the first has ended, and its caller does not know that yet.
        assert second.began.wait(30)
        await _cancelled(task)
        assert await asyncio.to_thread(working.undone.wait, 30)
        second.may_end.set()
        await other
    assert working.discarded == ["result"]
    assert working.discarded_on != [threading.main_thread().name]
