"""How much a ledger keeps, and for how long."""

from dataclasses import dataclass
from typing import Final

from triptych.domain.errors import ConfigurationError

_HOUR_SECONDS: Final = 3600.0
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Bounds what a ledger holds.

    A job that has ended becomes a tombstone when its time is over, or when others need its room;
    the one that ended first goes first. A job that has not ended never goes.

    Attributes:
        ended_seconds: how long an ended job is kept.
        tombstone_seconds: for how long after that it is known to have been there; also how long its
            client_request_id means it.
        max_tombstones: beyond which the oldest ones go before their time.
        max_bytes: of all jobs. A submission that finds no room is refused. Running jobs may exceed
            it by what they write.
        max_event_bytes: of one job; beyond it its first events go, but never the last one.

    Raises:
        ConfigurationError: one of them is not positive.
    """

    ended_seconds: float = 24 * _HOUR_SECONDS
    tombstone_seconds: float = 7 * 24 * _HOUR_SECONDS
    max_tombstones: int = 100_000
    max_bytes: int = 256 * _MIB
    max_event_bytes: int = _MIB

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not (value := getattr(self, name)) > 0:
                raise ConfigurationError(f"{name}: is {value}; allowed are numbers above 0")
