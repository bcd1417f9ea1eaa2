"""A rank process without a model, which misbehaves as its first argument says.

python -m tests.unit.denoiser_service.scripted_rank MODE --channel-fd N
"""

import os
import signal
import socket
import sys
from pathlib import Path

from denoiser_service.channel import RankChannel
from denoiser_service.commands import (
    Abort,
    Aborted,
    Command,
    Failed,
    Finish,
    Prepare,
    Prepared,
    Reply,
    Step,
    Stepped,
)
from services.domain.errors import StoreFull, TriptychError
from tests.unit.denoiser_service.scripted_ranks import READY


def _answer(command: Command) -> Reply:
    request_id = command.request_id
    match command:
        case Prepare():
            return Prepared(
                request_id=request_id, total_steps=2, run_seconds=0.0, transfer_seconds=0.0
            )
        case Step(request_id="killed"):
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()
        case Step(request_id="stopped"):
            os.kill(os.getpid(), signal.SIGSTOP)
        case Step(request_id="fatal"):
            return Failed.of(request_id, TriptychError("the device is broken"), fatal=True)
        case Finish():
            return Failed.of(request_id, StoreFull("no room"))
        case Abort():
            return Aborted(request_id=request_id, completed_steps=0)
    return Stepped(request_id=request_id, step=1, total_steps=2, sigma=1.0, seconds=0.0)


def _misbehave_at_start(mode: str) -> None:
    if mode == "refuses":
        sys.exit(2)
    if mode == "hangs":
        signal.pause()
    if mode.startswith("fails-once:"):
        marker = Path(mode.removeprefix("fails-once:"))
        if not marker.exists():
            marker.touch()
            sys.exit(1)


def _main(mode: str, descriptor: int) -> None:
    _misbehave_at_start(mode)
    with socket.socket(fileno=descriptor) as connection:
        if mode == "babbles":
            connection.sendall(b"\x00\x00\x00\x02hi")
        channel = RankChannel(connection)
        channel.send(READY.model_copy(update={"pid": os.getpid()}))
        while (command := channel.receive()) is not None:
            channel.send(_answer(command))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[-1]))
