import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.rpc.fence import Fence, FencedCall
from triptych.domain.deadline import Deadline
from triptych.domain.errors import DeadlineExceeded, Superseded

LATER = Deadline.after(24 * 3600)


@dataclass(frozen=True)
class Asked:
    attempt: int
    request_id: str = "1" * 32
    tenant: str = "someone"


class Work:
    """Runs until a test lets it end, and says what became of it."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.cancelled = False

    async def __call__(self) -> str:
        self.began.set()
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return "done"


def started(
    fence: Fence,
    asked: Asked,
    work: Callable[[], Coroutine[Any, Any, str]],
    deadline: Deadline = LATER,
) -> asyncio.Task[str]:
    return asyncio.create_task(fence.run(asked, work, deadline))


async def test_a_later_attempt_ends_the_work_of_an_earlier_one_and_then_runs() -> None:
    fence, first, second = Fence(), Work(), Work()
    earlier = started(fence, Asked(1), first)
    await first.began.wait()
    later = started(fence, Asked(2), second)
    with pytest.raises(Superseded, match="attempt: is 1; a later attempt of the request 1111"):
        await earlier
    await second.began.wait()
    assert first.cancelled
    second.may_end.set()
    assert await later == "done"


async def test_a_later_attempt_waits_until_what_cannot_be_ended_at_once_has_left() -> None:
    fence, second = Fence(), Work()
    stubborn = await fence.enter(Asked(1), LATER)
    later = started(fence, Asked(2), second)
    await stubborn.superseded
    with pytest.raises(Superseded):
        stubborn.check()
    assert not second.began.is_set()
    fence.leave(stubborn)
    await second.began.wait()
    second.may_end.set()
    assert await later == "done"


async def test_an_earlier_attempt_is_refused_while_a_later_one_is_at_work_and_after_it() -> None:
    fence, work = Fence(), Work()
    later = started(fence, Asked(2), work)
    await work.began.wait()
    with pytest.raises(Superseded, match="attempt: is 1"):
        await fence.run(Asked(1), Work(), LATER)
    work.may_end.set()
    assert await later == "done"
    with pytest.raises(Superseded, match="attempt: is 1"):
        await fence.run(Asked(1), Work(), LATER)


async def test_an_attempt_that_waits_is_superseded_too() -> None:
    fence, third = Fence(), Work()
    stubborn = await fence.enter(Asked(1), LATER)
    second = started(fence, Asked(2), Work())
    await stubborn.superseded
    last = started(fence, Asked(3), third)
    with pytest.raises(Superseded, match="attempt: is 2"):
        await second
    assert not third.began.is_set()
    fence.leave(stubborn)
    await third.began.wait()
    third.may_end.set()
    assert await last == "done"


async def test_calls_of_one_attempt_run_beside_and_after_one_another() -> None:
    fence, works = Fence(), [Work(), Work()]
    tasks = [started(fence, Asked(4), work) for work in works]
    for work in works:
        await work.began.wait()
        work.may_end.set()
    assert await asyncio.gather(*tasks) == ["done", "done"]
    again = Work()
    again.may_end.set()
    assert await fence.run(Asked(4), again, LATER) == "done"


async def test_calls_without_an_attempt_disturb_nobody_and_are_not_disturbed() -> None:
    fence, works = Fence(), [Work(), Work(), Work()]
    tasks = [
        started(fence, Asked(attempt), work) for attempt, work in zip((0, 7, 0), works, strict=True)
    ]
    for work in works:
        await work.began.wait()
        work.may_end.set()
    assert await asyncio.gather(*tasks) == ["done"] * 3


@pytest.mark.parametrize("other", [Asked(1, "2" * 32), Asked(1, tenant="another")])
async def test_attempts_of_another_job_are_its_own(other: Asked) -> None:
    fence, work = Fence(), Work()
    task = started(fence, Asked(9), work)
    await work.began.wait()
    beside = Work()
    beside.may_end.set()
    assert await fence.run(other, beside, LATER) == "done"
    work.may_end.set()
    assert await task == "done"


async def test_an_earlier_attempt_that_does_not_leave_is_waited_for_until_the_deadline() -> None:
    fence = Fence()
    stubborn = await fence.enter(Asked(1), LATER)
    with pytest.raises(DeadlineExceeded, match="while an earlier call was leaving"):
        await fence.run(Asked(2), Work(), Deadline.after(0.01))
    # Whoever gave up waiting is waited for by nobody.
    fence.leave(stubborn)
    done = Work()
    done.may_end.set()
    assert await fence.run(Asked(3), done, LATER) == "done"


async def test_what_the_work_raises_is_the_callers_and_its_place_is_free() -> None:
    fence = Fence()

    async def fail() -> str:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        await fence.run(Asked(1), fail, LATER)
    done = Work()
    done.may_end.set()
    assert await fence.run(Asked(2), done, LATER) == "done"


async def test_a_caller_that_leaves_has_its_work_cancelled_and_holds_up_nobody() -> None:
    fence, work = Fence(), Work()
    task = started(fence, Asked(1), work)
    await work.began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.cancelled
    done = Work()
    done.may_end.set()
    assert await fence.run(Asked(2), done, LATER) == "done"


async def test_the_latest_attempt_is_known_of_so_many_jobs_and_of_all_that_are_at_work() -> None:
    fence = Fence(remembered=2)
    held = await fence.enter(Asked(5, "0" * 32), LATER)
    for digit in "123":
        fence.leave(await fence.enter(Asked(5, digit * 32), LATER))
    for digit in "023":
        with pytest.raises(Superseded):
            await fence.enter(Asked(4, digit * 32), LATER)
    fence.leave(held)
    # Forgotten: there is no more room, and nothing of it is here.
    fence.leave(await fence.enter(Asked(4, "1" * 32), LATER))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
async def test_only_calls_of_the_latest_attempt_are_ever_at_work_together(
    attempts: list[int],
) -> None:
    fence, inside = Fence(), set[FencedCall]()

    async def call(attempt: int) -> None:
        entered = await fence.enter(Asked(attempt), LATER)
        inside.add(entered)
        assert {other.request.attempt for other in inside} == {attempt}
        await entered.superseded
        inside.remove(entered)
        fence.leave(entered)

    tasks = [asyncio.create_task(call(attempt)) for attempt in attempts]
    await asyncio.sleep(0)
    # One that is later than all of them ends those that are left.
    fence.leave(await fence.enter(Asked(6), LATER))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not inside
    assert all(result is None or isinstance(result, Superseded) for result in results)
