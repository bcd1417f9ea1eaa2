"""What is asked of a fork server, as it travels on the socket."""

import json
import socket
from dataclasses import asdict, dataclass
from typing import Final, Self

READY: Final = b"ready"
"""What a server says once it can fork."""
GO: Final = b"go"
"""What a new process waits for."""

_MAX_BYTES: Final = 2**20
_MAX_DESCRIPTORS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkOrder:
    """A process that is to be forked.

    With it go descriptors: the socket on which the new process says who it is, then one for each
    target.

    Attributes:
        module: what it runs.
        arguments: what it is told.
        environment: all of its variables.
        directory: where it works.
        targets: numbers under which it has the descriptors.
        starter: process id of its parent.
        launches: whether it gets a fork server of its own.
    """

    module: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    directory: str
    targets: tuple[int, ...]
    starter: int
    launches: bool

    def send(self, link: socket.socket, descriptors: list[int]) -> None:
        """Sends it as one message.

        Raises:
            OSError: the other end is gone, or the message too long.
        """
        socket.send_fds(link, [json.dumps(asdict(self)).encode()], descriptors)

    @classmethod
    def receive(cls, link: socket.socket) -> tuple[Self, list[int]] | None:
        """The next one and its descriptors; None once the other end is closed."""
        try:
            message, descriptors, _, _ = socket.recv_fds(link, _MAX_BYTES, _MAX_DESCRIPTORS)
        except ConnectionResetError:
            # It was closed before all that was sent to it had been read.
            return None
        if not message:
            return None
        told = json.loads(message)
        told |= {"arguments": tuple(told["arguments"]), "targets": tuple(told["targets"])}
        return cls(**told), descriptors
