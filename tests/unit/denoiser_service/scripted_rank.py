"""A rank process without a model, which misbehaves as its first argument and its commands say.

python -m tests.unit.denoiser_service.scripted_rank MODE --beat-seconds=S ... --channel-fd N
"""

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from denoiser_service.rank.channel import RankChannel
from denoiser_service.rank.commands import (
    Abort,
    Aborted,
    Command,
    Failed,
    Finish,
    Finished,
    Prepare,
    Prepared,
    Reply,
    Step,
    Stepped,
)
from denoiser_service.rank.heartbeat import Heartbeat
from tests.unit.denoiser_service.scripted_ranks import READY
from tests.unit.domain.examples import TENSOR_REF
from triptych.domain.errors import NotFound, StoreFull, TriptychError

NUMBER = os.environ["RANK"]
ABORTED: set[str] = set()


def _signal_itself(sent: int) -> None:
    os.kill(os.getpid(), sent)
    if sent == signal.SIGKILL:
        signal.pause()


def _strand_others(step: Step) -> Reply:
    # What one rank breaks off, the others wait for.
    if NUMBER != "0":
        signal.pause()
    return _fail(step)


def _fail(step: Step) -> Reply:
    return Failed.of(step.request_id, TriptychError("it has no steps left"))


def _break(step: Step) -> Reply:
    return Failed.of(step.request_id, TriptychError("the device is broken"), fatal=True)


# How a rank may take a step; "killed@1" is a request with which only rank 1 does so.
STEPS: dict[str, Callable[[Step], Reply | None]] = {
    "killed": lambda _: _signal_itself(signal.SIGKILL),
    "stopped": lambda _: _signal_itself(signal.SIGSTOP),
    "busy": lambda _: signal.pause(),
    "fatal": _break,
    "fails": _fail,
    "strands": _strand_others,
    "differs": lambda step: _stepped(step, number=2),
}


def _stepped(step: Step, number: int = 1) -> Reply:
    if step.request_id in ABORTED:
        return Failed.of(step.request_id, NotFound("it was aborted"))
    return Stepped(request_id=step.request_id, step=number, total_steps=2, sigma=1.0, seconds=0.0)


def _finished(finish: Finish) -> Reply:
    if sys.argv[1] != "finishes":
        return Failed.of(finish.request_id, StoreFull("no room"))
    return Finished(
        request_id=finish.request_id,
        latents=TENSOR_REF if NUMBER == "0" else None,
        latents_checksum_xxh3=9,
        run_seconds=0.0,
        transfer_seconds=0.0,
    )


def _answer(command: Command) -> Reply:
    request_id = command.request_id
    misbehaviour, _, whose = request_id.partition("@")
    concerned = whose in {"", NUMBER}
    match command:
        case Prepare() if misbehaviour == "unprepared" and concerned:
            return Failed.of(request_id, StoreFull("no memory"))
        case Prepare():
            return Prepared(
                request_id=request_id, total_steps=2, run_seconds=0.0, transfer_seconds=0.0
            )
        case Step():
            usual = (STEPS.get(misbehaviour) or _stepped) if concerned else _stepped
            return usual(command) or _stepped(command)
        case Finish():
            return _finished(command)
        case Abort():
            ABORTED.add(request_id)
            return Aborted(request_id=request_id, completed_steps=0)


def _misbehave_at_start(mode: str) -> None:
    mode, _, whose = mode.partition("@")
    if whose not in {"", NUMBER}:
        return
    if mode == "refuses":
        sys.exit(2)
    if mode == "is-killed":
        _signal_itself(signal.SIGKILL)
    if mode == "hangs":
        signal.pause()
    kind, _, marker = mode.partition(":")
    if marker:
        _misbehave_by_marker(kind, Path(marker))


def _misbehave_by_marker(kind: str, marker: Path) -> None:
    """The marker tells the first start from the others."""
    is_first = not marker.exists()
    marker.touch()
    if kind == "fails-once" and is_first:
        sys.exit(1)
    if kind == "is-killed-after" and not is_first:
        _signal_itself(signal.SIGKILL)


def _main(mode: str, beat_seconds: float, descriptor: int) -> None:
    _misbehave_at_start(mode)
    with socket.socket(fileno=descriptor) as connection:
        if mode == "babbles":
            connection.sendall(b"\x00\x00\x00\x02hi")
        channel = RankChannel(connection)
        store = f"shm:{NUMBER}" if mode == "stores-differ" else READY.tensor_store
        channel.send(READY.model_copy(update={"pid": os.getpid(), "tensor_store": store}))
        with Heartbeat(channel, beat_seconds):
            while (command := channel.receive()) is not None:
                channel.send(_answer(command))


if __name__ == "__main__":
    _main(sys.argv[1], float(sys.argv[2].removeprefix("--beat-seconds=")), int(sys.argv[-1]))
