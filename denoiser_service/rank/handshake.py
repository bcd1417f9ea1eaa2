"""How a rank that connects over the network and its supervisor prove who they are.

Both know the cluster's secret, neither says it: each answers the other's random number with a MAC.
What follows on the connection is neither encrypted nor signed; it belongs on a network of its own,
as the ranks' own exchanges do.
"""

import hashlib
import hmac
import secrets
import socket
import time
from typing import Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from denoiser_service.rank.channel import RankChannel, encode_frame
from triptych.domain.parallel import ParallelDegrees

MAX_HANDSHAKE_BYTES: Final = 4096
LOST_SECONDS: Final = 30
"""How long bytes may go unacknowledged before the other host counts as gone."""
_PAUSE_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = 10.0
# What the only try has where there is no time for more.
_LAST_SECONDS: Final = 1.0

M = TypeVar("M", bound=BaseModel)


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Challenge(_Message):
    """The supervisor's first word."""

    nonce: str = Field(default_factory=lambda: secrets.token_hex(32), pattern=r"^[0-9a-f]{64}$")


class Hello(_Message):
    """A rank's answer.

    Attributes:
        rank: its number.
        degrees: of its group.
        group: a number that all ranks which can reach one another agreed on, and no others have.
        nonce: for the supervisor to answer.
        mac: of all this and the challenge.
    """

    rank: int = Field(ge=0)
    degrees: ParallelDegrees
    group: int
    nonce: str = Field(default_factory=lambda: secrets.token_hex(32), pattern=r"^[0-9a-f]{64}$")
    mac: str = ""

    def signed(self, secret: SecretStr, challenge: Challenge) -> "Hello":
        """The same with its MAC."""
        return self.model_copy(update={"mac": _mac(secret, challenge, self)})

    def check(self, secret: SecretStr, challenge: Challenge) -> None:
        """Raises ConnectionError unless this answers the challenge under the same secret."""
        _compare(self.mac, _mac(secret, challenge, self), "rank")


class Welcome(_Message):
    """The supervisor's last word before its commands.

    Attributes:
        beat_seconds: how often the rank says that it is alive.
        mac: of all this and the hello.
    """

    beat_seconds: float = Field(gt=0)
    mac: str = ""

    def signed(self, secret: SecretStr, hello: Hello) -> "Welcome":
        """The same with its MAC."""
        return self.model_copy(update={"mac": _mac(secret, hello, self)})

    def check(self, secret: SecretStr, hello: Hello) -> None:
        """Raises ConnectionError unless this answers the hello under the same secret."""
        _compare(self.mac, _mac(secret, hello, self), "supervisor")


def decode(kind: type[M], payload: bytes) -> M:
    """Reads a message.

    Raises:
        ConnectionError: it is none of that kind.
    """
    try:
        return kind.model_validate_json(payload)
    except ValidationError as error:
        raise ConnectionError(f"rank channel: not a {kind.__name__}") from error


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


def notice_lost_peers(connection: socket.socket) -> None:
    """Has a connection end when the other host is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, LOST_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_SECONDS * 1000)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _mac(secret: SecretStr, answered: BaseModel, answer: BaseModel) -> str:
    # The kinds are signed as well: no answer can be taken for another.
    parts = [
        type(answer).__name__,
        answered.model_dump_json(),
        answer.model_dump_json(exclude={"mac"}),
    ]
    key = secret.get_secret_value().encode()
    return hmac.new(key, "\n".join(parts).encode(), hashlib.sha256).hexdigest()


def _compare(given: str, expected: str, who: str) -> None:
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise ConnectionError(f"rank channel: the {who} does not know this cluster's secret")
