import asyncio
import random
from contextlib import aclosing

import pytest

from denoiser_service.rank.commands import Command, Prepare
from denoiser_service.service.policy import Order
from services.domain.stages import Denoised, DenoiseStarted, PreviewLatents
from tests.unit.denoiser_service.scheduling import Hold, passed, scheduling
from tests.unit.domain.examples import TENSOR_REF
from triptych.domain.deadline import Deadline
from triptych.domain.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    QueueFull,
    RanksLost,
    StageUnavailable,
    StoreFull,
    Unavailable,
)
from triptych.domain.events import StepCompleted
from triptych.domain.input_image import ImageDescription

IMAGE = ImageDescription(width=64, height=48, size_bytes=1, checksum_xxh3=0)
WHOLE = ["prepare", "step", "step", "step", "finish"]


async def test_a_request_is_prepared_stepped_and_finished() -> None:
    async with scheduling() as each:
        events = await each.outcome("a")
        assert each.commands_for("a") == WHOLE
        assert each.scheduler.completed_steps == 3
    assert isinstance(events[0], DenoiseStarted)
    assert events[1:4] == [StepCompleted(step, 3, 0.5, 1.0) for step in (1, 2, 3)]
    denoised = events[4]
    assert isinstance(denoised, Denoised)
    assert denoised.latents.request_id == "a"
    assert denoised.timing.run_seconds == 0.25 + 3 * 1.0 + 0.25
    assert denoised.timing.transfer_seconds == 1.0
    assert denoised.timing.queue_seconds >= 0
    assert each.released == []


async def test_a_preview_follows_the_event_of_its_step() -> None:
    async with scheduling() as each:
        each.ranks.previews = {2: TENSOR_REF}
        events = await each.outcome("a")
    assert [type(event) for event in events] == [
        *(DenoiseStarted, StepCompleted, StepCompleted, PreviewLatents, StepCompleted, Denoised)
    ]
    assert events[3] == PreviewLatents(2, TENSOR_REF)


async def test_residents_take_turns_step_by_step() -> None:
    async with scheduling(max_resident=2) as each:
        hold = Hold(each.ranks, "prepare", "a")
        tasks = [each.start(name, steps=2) for name in ("a", "b", "c")]
        await hold.reached.wait()
        hold.go.set()
        await asyncio.gather(*tasks)
        assert each.ranks.commands == [
            ("prepare", "a"),
            ("prepare", "b"),
            ("step", "a"),
            ("step", "b"),
            ("step", "a"),
            ("step", "b"),
            ("finish", "a"),
            ("prepare", "c"),
            ("finish", "b"),
            ("step", "c"),
            ("step", "c"),
            ("finish", "c"),
        ]
        assert each.ranks.most_resident == 2


async def test_fifo_finishes_the_oldest_first() -> None:
    async with scheduling(order=Order.FIFO) as each:
        hold = Hold(each.ranks, "prepare", "a")
        tasks = [each.start(name) for name in ("a", "b")]
        await hold.reached.wait()
        hold.go.set()
        await asyncio.gather(*tasks)
        assert [name for _, name in each.ranks.commands] == ["a"] * 5 + ["b"] * 5


@pytest.mark.parametrize("seed", range(20))
async def test_whoever_leaves_gets_no_further_turn_and_the_others_lose_none(seed: int) -> None:
    chance = random.Random(seed)
    leaves_after = chance.randrange(0, 5)
    async with scheduling(max_resident=chance.randrange(1, 4)) as each:
        others = [each.start(name) for name in ("a", "b", "c")]
        async with aclosing(each.stream("left", steps=5)) as events:
            for _ in range(leaves_after):
                await anext(events)
        before = each.commands_for("left")
        done = await asyncio.gather(*others)
        assert await each.outcome("next") != []
        for name, events_of in zip("abc", done, strict=True):
            assert each.commands_for(name) == WHOLE
            assert isinstance(events_of[-1], Denoised)
        after = each.commands_for("left")[len(before) :]
        # At most the command under way is completed; then the ranks are told to forget it, once.
        assert after in (["abort"], ["prepare", "abort"], ["step", "abort"], [])
        assert bool(each.commands_for("left")) == (each.commands_for("left").count("abort") == 1)


async def test_cancelling_by_name_ends_the_stream_at_the_next_step() -> None:
    async with scheduling() as each:
        hold = Hold(each.ranks, "step", "a", 2)
        task = each.start("a")
        await hold.reached.wait()
        assert each.scheduler.cancel("a") == 1
        hold.go.set()
        with pytest.raises(Cancelled, match="cancelled while denoising; 2 of 3 steps were done"):
            await task
        assert each.commands_for("a") == ["prepare", "step", "step", "abort"]


async def test_cancelling_what_is_not_there_is_not_found() -> None:
    async with scheduling() as each:
        await each.outcome("a")
        with pytest.raises(NotFound, match="a is not being denoised here"):
            each.scheduler.cancel("a")


async def test_ranks_are_told_how_long_latents_may_be_wanted() -> None:
    told: list[float | None] = []

    async def note(command: Command) -> None:
        if isinstance(command, Prepare):
            told.append(command.remaining_seconds)

    async with scheduling() as each:
        each.ranks.on_command = note
        await each.outcome("a", deadline=Deadline.after(1000))
    (seconds,) = told
    assert seconds is not None
    assert 900 < seconds <= 1000


async def test_a_deadline_stops_a_resident_at_the_next_step() -> None:
    deadline = Deadline.after(600)
    async with scheduling() as each:
        hold = Hold(each.ranks, "step", "a", 2)
        task = each.start("a", deadline=deadline)
        await hold.reached.wait()
        passed(deadline)
        hold.go.set()
        with pytest.raises(DeadlineExceeded, match="2 of 3 steps were done"):
            await task
        assert each.commands_for("a") == ["prepare", "step", "step", "abort"]


async def test_a_deadline_that_passes_in_the_queue_costs_no_command() -> None:
    deadline = Deadline.after(600)
    async with scheduling(max_resident=1) as each:
        hold = Hold(each.ranks, "step", "a")
        first, second = each.start("a"), each.start("b", deadline=deadline)
        await hold.reached.wait()
        passed(deadline)
        hold.go.set()
        with pytest.raises(DeadlineExceeded):
            await second
        await first
        assert each.commands_for("b") == []


async def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    async with scheduling(max_resident=1, max_queued=1) as each:
        hold = Hold(each.ranks, "step", "a")
        running = each.start("a")
        await hold.reached.wait()
        waiting = each.stream("b")
        entering = asyncio.create_task(anext(waiting))
        await asyncio.sleep(0)
        assert (each.scheduler.running, each.scheduler.queued) == (1, 1)
        with pytest.raises(
            QueueFull, match=r"the denoiser's queue is full \(1 requests wait\)"
        ) as c:
            await each.outcome("c")
        assert c.value.retry_after_seconds is not None
        assert c.value.retry_after_seconds > 0
        hold.go.set()
        await running
        await entering
        await waiting.aclose()
        await each.outcome("d")


async def test_the_same_request_cannot_be_denoised_twice_at_once() -> None:
    async with scheduling() as each:
        hold = Hold(each.ranks, "step", "a")
        task = each.start("a")
        await hold.reached.wait()
        with pytest.raises(AlreadyExists, match="request_id: a is being denoised already"):
            await each.outcome("a")
        hold.go.set()
        assert isinstance((await task)[-1], Denoised)


async def test_a_request_that_comes_again_while_it_leaves_is_asked_to_wait_a_moment() -> None:
    async with scheduling() as each:
        hold = Hold(each.ranks, "step", "a")
        task = each.start("a")
        await hold.reached.wait()
        each.scheduler.cancel("a")
        with pytest.raises(Unavailable, match="request_id: a is leaving this denoiser") as caught:
            await each.outcome("a")
        assert caught.value.retry_after_seconds is not None
        hold.go.set()
        with pytest.raises(Cancelled):
            await task
        assert isinstance((await each.outcome("a"))[-1], Denoised)


async def test_a_draining_scheduler_finishes_what_it_has_and_takes_no_more() -> None:
    async with scheduling(max_resident=1) as each:
        hold = Hold(each.ranks, "step", "a")
        tasks = [each.start("a"), each.start("b")]
        await hold.reached.wait()
        each.scheduler.draining = True
        with pytest.raises(StageUnavailable, match="draining"):
            await each.outcome("c")
        hold.go.set()
        for events in await asyncio.gather(*tasks):
            assert isinstance(events[-1], Denoised)


async def test_a_command_that_fails_ends_its_request_alone() -> None:
    async def refuse(command: Command) -> None:
        if (command.kind, command.request_id) == ("finish", "a"):
            raise StoreFull("no room")

    async with scheduling() as each:
        each.ranks.on_command = refuse
        failing, other = each.start("a"), each.start("b")
        with pytest.raises(StoreFull, match="no room"):
            await failing
        assert isinstance((await other)[-1], Denoised)


async def test_lost_ranks_fail_the_residents_and_the_queue_waits_for_the_rebuild() -> None:
    async with scheduling(max_resident=2) as each:
        hold = Hold(each.ranks, "step", "b")
        residents = [each.start("a"), each.start("b")]
        queued = each.start("c")
        await hold.reached.wait()
        each.ranks.die()
        hold.go.set()
        for task in residents:
            with pytest.raises(RanksLost):
                await task
        assert each.commands_for("c") == []
        assert (each.scheduler.running, each.scheduler.queued) == (0, 1)
        each.ranks.rebuild()
        assert isinstance((await queued)[-1], Denoised)
        assert each.commands_for("c") == WHOLE


async def test_residents_of_ranks_that_died_between_two_commands_are_told_so() -> None:
    async with scheduling() as each:

        def die(command: Command) -> None:
            each.ranks.on_reply = lambda _: None
            each.ranks.die()

        each.ranks.on_reply = die
        # Nobody rebuilds them meanwhile: who lost its state need not wait to hear of it.
        with pytest.raises(RanksLost):
            await each.outcome("a")
        assert each.commands_for("a") == ["prepare"]
        each.ranks.rebuild()
        assert isinstance((await each.outcome("b"))[-1], Denoised)


async def test_rebuilt_ranks_are_never_asked_for_what_the_old_ones_held() -> None:
    async with scheduling() as each:

        def die_and_come_back(command: Command) -> None:
            each.ranks.on_reply = lambda _: None
            each.ranks.die()
            each.ranks.rebuild()

        each.ranks.on_reply = die_and_come_back
        with pytest.raises(RanksLost):
            await each.outcome("a")
        assert each.commands_for("a") == ["prepare"]


async def test_who_gives_up_during_a_rebuild_leaves_the_queue() -> None:
    async with scheduling(max_resident=1, max_queued=1) as each:
        each.ranks.die()
        tasks = [asyncio.create_task(anext(each.stream(name))) for name in "ad"]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await each.outcome("b")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await _a_few_turns()
        assert each.scheduler.queued == 0
        other = each.start("c")
        each.ranks.rebuild()
        assert isinstance((await other)[-1], Denoised)
        assert each.commands_for("a") == []


async def _a_few_turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_backlog_is_what_is_left_of_all_requests_at_the_pace_so_far() -> None:
    async with scheduling(max_resident=1, order=Order.FIFO) as each:
        assert each.scheduler.backlog_seconds == 0
        hold = Hold(each.ranks, "finish", "a")
        tasks = [each.start("a", steps=3), each.start("b", steps=5), each.start("c", steps=40)]
        await hold.reached.wait()
        # The scripted steps take a second each; those of "a" are done.
        assert each.scheduler.backlog_seconds == pytest.approx(45)
        each.scheduler.cancel("c")
        assert each.scheduler.backlog_seconds == pytest.approx(5)
        hold.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert each.scheduler.backlog_seconds == 0


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("prompt", "x" * 5000, "has 5000 characters"),
        ("width", 100, "is 100"),
        ("images", (IMAGE,), "are 0; the request has 1 images"),
    ],
)
async def test_what_every_rank_would_refuse_is_never_sent_there(
    field: str, value: object, says: str
) -> None:
    named = "image_latents" if field == "images" else field
    async with scheduling() as each:
        with pytest.raises(InvalidRequest, match=f"^{named}: {says}"):
            await each.outcome("a", **{field: value})
        assert each.ranks.commands == []


async def test_what_came_while_ranks_were_rebuilt_is_refused_once_their_model_is_known() -> None:
    async with scheduling() as each:
        each.ranks.die()
        task = each.start("a", width=100)
        await _a_few_turns()
        assert each.scheduler.queued == 1
        each.ranks.rebuild()
        with pytest.raises(InvalidRequest, match=r"^width: is 100"):
            await task
        assert each.ranks.commands == []


async def test_results_of_one_request_have_places_of_their_own_and_are_cancelled_together() -> None:
    async with scheduling(max_resident=2) as each:
        hold = Hold(each.ranks, "step", "a.1")
        tasks = [each.start("a", image_index=index) for index in (0, 1)]
        await hold.reached.wait()
        prepared = [name for kind, name in each.ranks.commands if kind == "prepare"]
        assert prepared == ["a", "a.1"]
        each.scheduler.cancel("a")
        hold.go.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Cancelled, Cancelled]
