"""What a client does on the wire, as steps that a transport of either flavour carries out.

A generator yields steps; it is sent what came of each, or a TriptychError is raised in it. All that
decides anything is in such generators, and is there once.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from triptych.errors import TriptychError

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC with one answer, which is sent.

    Attributes:
        method: of GenerationService.
        seconds: it may take.
    """

    method: str
    request: Message
    seconds: float


@dataclass(frozen=True, slots=True)
class Open:
    """Begins an RPC with a stream of answers, in place of an earlier one."""

    method: str
    request: Message
    seconds: float


@dataclass(frozen=True, slots=True)
class Receive:
    """The next message of the stream that is open is sent; None at its end."""


@dataclass(frozen=True, slots=True)
class SendImage:
    """One UploadImage call, whose answer is sent.

    Attributes:
        data: the encoded picture.
        seconds: it may take.
    """

    data: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Some time passes."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """A function that takes time is called; what it returns is sent."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Emit:
    """The caller gets a value."""

    value: Any


@dataclass(frozen=True, slots=True)
class OnLeave:
    """Says what is called, if anything, when the steps end, whoever ends them.

    Attributes:
        call: asked at that moment.
    """

    call: Callable[[], Call | None]


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """There are no more steps.

    Attributes:
        value: that they return.
    """

    value: R


Performed = Call | Open | Receive | SendImage | Pause | Work | OnLeave
Steps = Generator[Performed | Emit, Any, R]


def next_step(steps: Steps[R], outcome: object) -> Performed | Emit | Done[R]:
    """The step after one of which `outcome` came."""
    try:
        return steps.throw(outcome) if isinstance(outcome, TriptychError) else steps.send(outcome)
    except StopIteration as ended:
        return Done(ended.value)


def single(step: Performed) -> Steps[Any]:
    """One step, and what came of it."""
    return (yield step)
