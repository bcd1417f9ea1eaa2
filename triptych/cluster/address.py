"""The address a cluster listens on."""

import errno
import os
import random
import socket
from dataclasses import dataclass
from typing import Self

from triptych.cluster.errors import ClusterConfigurationError

# Linux gives those above to outgoing connections: one could be taken before its listener has it.
_PORTS = range(2**14, 2**15)
_TRIES = 20
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, never bound


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address; port 0 stands for any that is free."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, option: str = "listen") -> Self:
        """Reads "host:port" or "[::1]:port".

        Args:
            text: what the user wrote.
            option: where, for the message.

        Raises:
            ClusterConfigurationError: it is neither.
        """
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isdecimal() and int(port) < 2**16):
            raise ClusterConfigurationError(
                f"{option}: {text!r} is not an address; write host:port, for example 127.0.0.1:7843"
            )
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def free(self) -> "Address":
        """This address if nobody listens there, with port 0 replaced by one that is free.

        Raises:
            ClusterConfigurationError: it is taken, or not this machine's.
        """
        candidates = [self.port] if self.port else [0, *random.sample(_PORTS, _TRIES)]
        try:
            family, kind, protocol, _, (host, _, *rest) = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            while True:
                port = candidates.pop()
                # gRPC shares ports between processes, so that a second cluster would start and
                # take half of the first one's calls. A plain socket is refused.
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind((host, port, *rest))
                    except OSError as error:
                        if error.errno != errno.EADDRINUSE or not candidates:
                            raise
                    else:
                        return Address(self.host, probe.getsockname()[1])
        except OSError as error:
            raise ClusterConfigurationError(self._refusal(error)) from error

    def reachable(self) -> "Address":
        """Where a client on this machine connects to."""
        return Address(_WILDCARDS.get(self.host, self.host), self.port)

    def _refusal(self, error: OSError) -> str:
        if error.errno == errno.EADDRINUSE:
            return (
                f"{self} is in use by another process; choose another address"
                f" with --listen, for example --listen {Address(self.host, 0)} for any free port"
            )
        reason = error.strerror or os.strerror(error.errno or 0)
        return f"cannot listen on {self}: {reason}; choose another address with --listen"
