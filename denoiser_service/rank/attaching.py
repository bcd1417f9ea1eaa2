"""A rank's way to a supervisor that did not start it."""

import socket
import time
from typing import Final

from pydantic import SecretStr

from denoiser_service.rank.channel import RankChannel, encode_frame
from denoiser_service.rank.handshake import MAX_HANDSHAKE_BYTES, Challenge, Hello, Welcome, decode
from denoiser_service.rank_group.attached_ranks import notice_lost_peers
from triptych.domain.parallel import ParallelDegrees

_PAUSE_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 10.0
# What the only try has where there is no time for more.
_LAST_SECONDS: Final = 1.0


def connected(host: str, port: int, seconds: float) -> socket.socket:
    """Connects, trying again for so long: the supervisor may be started later.

    Raises:
        ConnectionError: nobody listened all the time.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = max(deadline - time.monotonic(), _LAST_SECONDS)
        try:
            connection = socket.create_connection((host, port), min(left, _TIMEOUT_SECONDS))
        except OSError as error:
            if time.monotonic() + _PAUSE_SECONDS > deadline:
                raise ConnectionError(f"no supervisor at {host}:{port}: {error}") from error
            # A port that nobody listens at yet tells nobody when that changes.
            time.sleep(_PAUSE_SECONDS)
        else:
            notice_lost_peers(connection)
            return connection


def introduced(
    connection: socket.socket, secret: SecretStr, rank: int, degrees: ParallelDegrees, group: int
) -> Welcome:
    """Says who this is, and makes sure of who that is.

    Raises:
        ConnectionError: the supervisor refuses, or does not know the cluster's secret.
    """
    channel = RankChannel(connection)
    # For this alone: commands may be long in coming.
    connection.settimeout(_TIMEOUT_SECONDS)
    challenge = decode(Challenge, channel.receive_frame(MAX_HANDSHAKE_BYTES))
    hello = Hello(rank=rank, degrees=degrees, group=group).signed(secret, challenge)
    connection.sendall(encode_frame(hello))
    welcome = decode(Welcome, channel.receive_frame(MAX_HANDSHAKE_BYTES))
    welcome.check(secret, hello)
    connection.settimeout(None)
    return welcome
