"""How many calls a server works on at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from triptych.domain.call_seal import ADMINISTRATIVE_METHODS
from triptych.domain.errors import ResourceExhausted

NOT_COUNTED: Final = ADMINISTRATIVE_METHODS | {
    "/triptych.v1.StageService/GetCapacity",
    "/triptych.v1.TensorStoreService/Stat",
}
"""What ends work, or tells how much there is: most wanted where there is too much of it."""


class CallRoom:
    """Places for calls; what finds none is refused at once. For one event loop.

    Args:
        max_calls: places.
    """

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._calls = 0

    @contextmanager
    def place(self, method: str) -> Iterator[None]:
        """A place for as long as the context lasts.

        Args:
            method: as on the wire, "/package.Service/Method".

        Raises:
            ResourceExhausted: there is none.
        """
        if method in NOT_COUNTED:
            yield
            return
        if self._calls >= self._max_calls:
            raise ResourceExhausted(
                f"{self._calls} calls are at work here, and max_concurrent_calls allows no more;"
                " repeat the request later"
            )
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
