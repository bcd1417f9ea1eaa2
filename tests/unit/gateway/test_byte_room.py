import asyncio

import pytest

from services.gateway.byte_room import ByteRoom
from triptych.domain.deadline import Deadline
from triptych.domain.errors import DeadlineExceeded, ResourceExhausted


def soon() -> Deadline:
    return Deadline.after(60)


def test_what_finds_no_room_is_refused_by_the_limits_name() -> None:
    room = ByteRoom("max_request_bytes", 10)
    used_up = "max_request_bytes is 10 bytes and used up"
    with room.taken(6), room.taken(4), pytest.raises(ResourceExhausted, match=used_up):
        room.taken(1).__enter__()
    with room.taken(10):
        pass


def test_what_is_larger_than_all_room_gets_it_alone() -> None:
    room = ByteRoom("max_request_bytes", 10)
    with room.taken(11), pytest.raises(ResourceExhausted):
        room.taken(1).__enter__()


async def test_who_waits_for_room_gets_it_in_turn() -> None:
    room, order = ByteRoom("picture_transit_bytes", 10), list[str]()
    leave = {name: asyncio.Event() for name in ("first", "large", "small")}
    entered = {name: asyncio.Event() for name in leave}

    async def hold(name: str, size_bytes: int) -> None:
        async with room.waited_for(size_bytes, soon()):
            order.append(name)
            entered[name].set()
            await leave[name].wait()

    first = asyncio.create_task(hold("first", 6))
    await entered["first"].wait()
    # The small one would fit, but it came later.
    others = [asyncio.create_task(hold("large", 8)), asyncio.create_task(hold("small", 2))]
    await asyncio.sleep(0)
    leave["first"].set()
    await asyncio.gather(entered["large"].wait(), entered["small"].wait())
    assert order == ["first", "large", "small"]
    leave["large"].set()
    leave["small"].set()
    await asyncio.gather(first, *others)


async def test_room_that_does_not_come_in_time_is_a_passed_deadline_and_leaves_nothing_taken() -> (
    None
):
    room = ByteRoom("picture_transit_bytes", 10)
    async with room.waited_for(10, soon()):
        with pytest.raises(DeadlineExceeded, match="while picture_transit_bytes"):
            async with room.waited_for(1, Deadline.after(0.01)):
                pytest.fail("there was room")
    async with room.waited_for(10, soon()):
        pass
