"""Ranks that others started: they connect, prove who they are, and work as any others."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest
import structlog
from pydantic import SecretStr

from denoiser_service.rank import handshake
from denoiser_service.rank.channel import RankChannel, encode_frame
from denoiser_service.rank.commands import Step, Stepped
from denoiser_service.rank.handshake import Challenge, Hello, Welcome, connected, introduced
from denoiser_service.rank_group.attached_ranks import AttachedRanks
from denoiser_service.rank_group.generation import RankBounds, RankGeneration
from denoiser_service.rank_group.supervisor import RankSupervisor
from tests.unit.denoiser_service.scripted_ranks import READY
from triptych.domain.errors import ConfigurationError, RanksLost
from triptych.domain.parallel import ParallelDegrees

SECRET = SecretStr("a secret of at least 32 characters")
OTHER = SecretStr("another one of at least 32 characters")
LOOPBACK = "127.0.0.1"
DEGREES = ParallelDegrees(cfg=2)
STEP = Step(request_id="a")


def attach(port: int, number: int, group: int, secret: SecretStr = SECRET) -> socket.socket:
    connection = connected(LOOPBACK, port, seconds=10)
    try:
        introduced(connection, secret, number, DEGREES, group)
    except BaseException:
        connection.close()
        raise
    return connection


def serve(port: int, number: int, group: int) -> None:
    """A rank on a thread, until it is let go."""
    with closing(attach(port, number, group)) as connection:
        channel = RankChannel(connection)
        channel.send(READY)
        while (command := channel.receive()) is not None:
            reply = Stepped(
                request_id=command.request_id, step=1, total_steps=2, sigma=1.0, seconds=0.0
            )
            channel.send(reply)


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[AttachedRanks, int]]:
    ranks = AttachedRanks(LOOPBACK, 0, SECRET, degrees=DEGREES, beat_seconds=1.0)
    try:
        async with asyncio.timeout(30):
            yield ranks, await ranks.listen()
    finally:
        await ranks.close()


@asynccontextmanager
async def attachable(
    store: str = READY.tensor_store,
) -> AsyncIterator[tuple[RankSupervisor, int]]:
    async with listening() as (source, port):
        bounds = RankBounds(start=60, command=60, silence=60)
        group = RankSupervisor(source, degrees=DEGREES, bounds=bounds, store=lambda: store)
        changes: asyncio.Queue[bool] = asyncio.Queue()
        running = asyncio.create_task(group.run(changes.put))
        try:
            yield group, port
        finally:
            await group.close()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def current(group: RankSupervisor) -> RankGeneration:
    await group.wait_ready()
    assert group.current is not None
    return group.current


async def test_ranks_that_connect_execute_commands_together() -> None:
    async with attachable() as (group, port), asyncio.TaskGroup() as ranks:
        for number in (1, 0):
            ranks.create_task(asyncio.to_thread(serve, port, number, 7))
        assert isinstance(await (await current(group)).execute(STEP), Stepped)
        assert group.generation == 1
        await group.close()


async def test_when_one_rank_leaves_all_are_let_go_and_the_next_group_is_taken_in() -> None:
    async with attachable() as (group, port), asyncio.TaskGroup() as ranks:
        staying = asyncio.to_thread(serve, port, 0, 7)
        let_go = ranks.create_task(staying)
        leaving = await asyncio.to_thread(attach, port, 1, 7)
        RankChannel(leaving).send(READY)
        held = await current(group)
        leaving.close()
        await let_go
        with pytest.raises(RanksLost):
            await held.execute(STEP)

        for number in (0, 1):
            ranks.create_task(asyncio.to_thread(serve, port, number, 8))
        assert isinstance(await (await current(group)).execute(STEP), Stepped)
        assert group.generation == 2
        await group.close()


async def test_a_host_that_is_not_reached_any_more_loses_its_rank() -> None:
    async with attachable() as (group, port), asyncio.TaskGroup() as ranks:
        for number in (0, 1):
            ranks.create_task(asyncio.to_thread(serve, port, number, 7))
        held = await current(group)
        gone, _ = held._ranks
        # What the kernel says of a host that has gone without a word; to Python no ConnectionError.
        gone.link._reader.set_exception(OSError(errno.EHOSTUNREACH, "No route to host"))
        with pytest.raises(RanksLost):
            await held.execute(STEP)


async def test_ranks_that_cannot_reach_one_another_never_make_a_group() -> None:
    async with listening() as (ranks, port):
        stale = await asyncio.to_thread(attach, port, 0, 7)
        first, second = [await asyncio.to_thread(attach, port, each, 8) for each in (1, 0)]
        with closing(stale), closing(first), closing(second):
            gathered = await ranks.gather()
            assert [each.number for each in gathered] == [0, 1]
            # What was left over of the earlier attempt is let go.
            assert await asyncio.to_thread(RankChannel(stale).receive) is None
            for each in gathered:
                await each.stop()


def test_a_supervisor_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "_TIMEOUT_SECONDS", 0.1)
    with socket.create_server((LOOPBACK, 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ConnectionError, match="said nothing for too long"):
            attach(port, 0, 7)


async def test_a_rank_without_the_secret_is_refused() -> None:
    async with listening() as (_, port):
        with pytest.raises(ConnectionError, match="the supervisor closed it"):
            await asyncio.to_thread(attach, port, 0, 7, OTHER)


async def test_a_supervisor_without_the_secret_is_refused() -> None:
    async with listening() as (ranks, port):
        ranks._secret = OTHER
        hello = Hello(rank=0, degrees=DEGREES, group=7)
        with pytest.raises(ConnectionError, match="supervisor does not know this cluster's secret"):
            Welcome(beat_seconds=1.0).signed(OTHER, hello).check(SECRET, hello)
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(attach, port, 0, 7)


def test_an_answer_to_another_challenge_or_changed_on_the_way_is_refused() -> None:
    challenge = Challenge()
    hello = Hello(rank=0, degrees=DEGREES, group=7).signed(SECRET, challenge)
    hello.check(SECRET, challenge)
    with pytest.raises(ConnectionError):
        hello.check(SECRET, Challenge())
    with pytest.raises(ConnectionError):
        hello.model_copy(update={"rank": 1}).check(SECRET, challenge)


async def test_ranks_with_another_tensor_store_are_let_go() -> None:
    with structlog.testing.capture_logs() as logs:
        async with attachable("shm:of-another-host") as (group, port):
            await asyncio.gather(*(asyncio.to_thread(serve, port, each, 7) for each in (0, 1)))
            while group.generation < 2:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0)
            assert group.current is None
    assert any("start both with the same --store" in each.get("cause", "") for each in logs)


async def test_a_rank_that_was_told_other_degrees_is_refused() -> None:
    async with listening() as (_, port):
        connection = connected(LOOPBACK, port, seconds=10)
        with closing(connection), pytest.raises(ConnectionError):
            await asyncio.to_thread(introduced, connection, SECRET, 0, ParallelDegrees(ring=2), 7)


async def test_whoever_says_something_else_first_is_refused() -> None:
    async with listening() as (_, port):
        with closing(connected(LOOPBACK, port, seconds=10)) as connection:
            connection.sendall(encode_frame(READY.model_copy(update={"tensor_store": "x" * 5000})))
            channel = RankChannel(connection)
            challenge = await asyncio.to_thread(channel.receive_frame, 4096)
            assert b"nonce" in challenge
            with pytest.raises(ConnectionError):
                await asyncio.to_thread(channel.receive_frame, 4096)


async def test_an_address_that_is_taken_is_a_configuration_error() -> None:
    async with listening() as (_, port):
        second = AttachedRanks(LOOPBACK, port, SECRET, degrees=DEGREES, beat_seconds=1.0)
        with pytest.raises(ConfigurationError, match=f"rank_listen: .*127.0.0.1:{port}"):
            await second.gather()
