import asyncio
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from denoiser_service.rank.channel import MAX_FRAME_BYTES, RankChannel, encode_frame, read_frame
from denoiser_service.rank.commands import (
    Abort,
    Command,
    Failed,
    Finish,
    Finished,
    Prepare,
    RankReady,
    Reply,
    Step,
    Stepped,
    decode_command,
    decode_reply,
)
from services.domain.tensor_ref import TensorRef, TensorSpec
from tests.unit.denoiser_service.fakes import ONE, TENANT
from tests.unit.model_ports.fake_model import LOADED, parameters
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest, TriptychError

REF = TensorRef(
    store="inline:",
    owner="a" * 32,
    key="b" * 32,
    tensors=(TensorSpec(name="latents", element_type=ElementType.BFLOAT16, shape=(1, 16)),),
    size_bytes=32,
    checksum_xxh3=2**64 - 1,
    expire_time=1e9,
    tenant=TENANT,
    request_id=ONE,
    mac=bytes(range(224, 256)),
    inline_blob=b"\xff\xfe\x00 not text",
)
COMMANDS: list[Command] = [
    Prepare(request_id=ONE, tenant=TENANT, parameters=parameters(seed=2**63 - 1), conditioning=REF),
    Step(request_id=ONE),
    Finish(request_id=ONE),
    Abort(request_id=ONE),
]
REPLIES: list[Reply] = [
    RankReady(loaded=LOADED, tensor_store="shm:" + "a" * 32, pid=7),
    Stepped(request_id=ONE, step=1, total_steps=2, sigma=0.1 + 0.2, seconds=1e-9),
    Finished(
        request_id=ONE,
        latents=REF,
        latents_checksum_xxh3=2**64 - 1,
        run_seconds=0.1,
        transfer_seconds=0.2,
    ),
    Failed.of(ONE, InvalidRequest.of("steps", "is 1; allowed are 2 to 200")),
]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's and the rank's."""
    supervisor, rank = socket.socketpair()
    with supervisor, rank:
        yield supervisor, rank


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: each.kind)
def test_a_command_arrives_as_it_was_sent(
    ends: tuple[socket.socket, socket.socket], command: BaseModel
) -> None:
    ends[0].sendall(encode_frame(command))
    assert RankChannel(ends[1]).receive() == command


@pytest.mark.parametrize("reply", REPLIES, ids=lambda each: each.kind)
async def test_a_reply_arrives_as_it_was_sent(
    ends: tuple[socket.socket, socket.socket], reply: Reply
) -> None:
    reader, writer = await asyncio.open_connection(sock=ends[0])
    RankChannel(ends[1]).send(reply)
    assert decode_reply(await read_frame(reader)) == reply
    writer.close()
    await writer.wait_closed()


def test_commands_arrive_in_order_however_the_stream_is_cut(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    stream = b"".join(map(encode_frame, COMMANDS))
    channel = RankChannel(ends[1])
    ends[0].sendall(stream[:-10])
    received = [channel.receive() for _ in COMMANDS[:-1]]
    ends[0].sendall(stream[-10:])
    assert [*received, channel.receive()] == COMMANDS


@pytest.mark.parametrize("sent", [b"", b"\0\0", encode_frame(COMMANDS[0])[:-1]])
def test_a_supervisor_that_goes_at_any_moment_is_the_end(
    ends: tuple[socket.socket, socket.socket], sent: bytes
) -> None:
    ends[0].sendall(sent)
    ends[0].close()
    channel = RankChannel(ends[1])
    assert channel.wait(seconds=60)
    assert channel.receive() is None


def test_a_supervisor_that_goes_without_reading_replies_is_the_end(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    channel = RankChannel(ends[1])
    channel.send(REPLIES[1])
    ends[0].close()
    assert channel.receive() is None
    with pytest.raises(ConnectionError):
        channel.send(REPLIES[1])


def test_waiting_says_whether_there_is_anything_to_receive(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    channel = RankChannel(ends[1])
    assert not channel.wait(seconds=0)
    ends[0].sendall(encode_frame(COMMANDS[1]))
    assert channel.wait(seconds=0)


async def test_a_rank_that_goes_in_the_middle_of_a_reply_is_seen(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    reader, writer = await asyncio.open_connection(sock=ends[0])
    ends[1].sendall(encode_frame(REPLIES[1])[:-1])
    ends[1].close()
    with pytest.raises(asyncio.IncompleteReadError):
        await read_frame(reader)
    writer.close()
    await writer.wait_closed()


def test_a_frame_that_claims_too_much_is_refused_before_it_is_read(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[0].sendall(struct.pack(">I", MAX_FRAME_BYTES + 1))
    with pytest.raises(ConnectionError, match=f"claims {MAX_FRAME_BYTES + 1} bytes"):
        RankChannel(ends[1]).receive()


def test_a_message_that_is_too_long_is_refused_by_its_sender() -> None:
    wanted = replace(parameters(), prompt="x" * MAX_FRAME_BYTES)
    command = Prepare(request_id=ONE, tenant=TENANT, parameters=wanted, conditioning=REF)
    with pytest.raises(TriptychError, match=r"Prepare takes \d+ bytes"):
        encode_frame(command)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x80\x04N.",
        b"[]",
        b'{"kind": "step"}',
        b'{"kind": "dance", "request_id": "1"}',
        b'{"kind": "step", "request_id": "1", "twice": true}',
    ],
)
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    for decode in (decode_command, decode_reply):
        with pytest.raises(ConnectionError, match="rank channel: not a"):
            decode(payload)


def test_messages_cannot_be_made_with_fields_they_do_not_have() -> None:
    with pytest.raises(ValidationError):
        Step.model_validate({"request_id": ONE, "twice": True})


def test_the_supervisors_side_loads_no_torch() -> None:
    code = (
        "import sys, denoiser_service.rank.channel, denoiser_service.rank.commands;"
        "assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
