"""A rank's signs of life, said from a thread of their own: a long step is none, a stop is."""

import os
import threading
from typing import Final

from denoiser_service.rank.channel import RankChannel
from denoiser_service.rank.commands import Alive
from services.observability.logs import get_logger

EXIT_FORSAKEN: Final = 3
"""The exit code of a rank whose supervisor is gone while the rank waits for its peers."""

_log = get_logger(__name__)


class Heartbeat:
    """Says that the rank is alive until the supervisor is gone, and ends the process with it.

    A rank that waits in a collective for a peer that died with the supervisor would wait for the
    process group's time-out.

    Args:
        channel: where to say it.
        seconds: how often.
    """

    def __init__(self, channel: RankChannel, seconds: float) -> None:
        self._channel = channel
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds):
            try:
                self._channel.send(Alive())
            except OSError:
                self._leave()
                return

    def _leave(self) -> None:
        # An idle rank sees the channel's end itself, and ends in an orderly way.
        if not self._ended.wait(self._seconds + 1.0):
            _log.warning("the supervisor is gone; ending in the middle of a command")
            os._exit(EXIT_FORSAKEN)
