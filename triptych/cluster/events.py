"""What a local cluster tells whoever started it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """A process was started, for the first time or again."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class ProcessDied:
    """A process ended unasked; it is started again.

    Attributes:
        how: for example "was killed by SIGKILL".
        restart_in_seconds: until it is started again.
    """

    name: str
    pid: int
    how: str
    restart_in_seconds: float


@dataclass(frozen=True, slots=True)
class ProcessNotStarted:
    """The machine lacked memory, processes or descriptors to start a process.

    Attributes:
        how: for example "Resource temporarily unavailable".
        restart_in_seconds: until that is tried again.
    """

    name: str
    how: str
    restart_in_seconds: float


@dataclass(frozen=True, slots=True)
class ProcessStuck:
    """A process did not end when it was killed, as when a driver hangs; it is left behind."""

    name: str
    pid: int


@dataclass(frozen=True, slots=True)
class ForkServerLost:
    """What processes are forked from ended or cannot be used; they start all the same.

    Attributes:
        how: for example "it ended".
    """

    how: str


ClusterEvent = ProcessStarted | ProcessDied | ProcessNotStarted | ProcessStuck | ForkServerLost
