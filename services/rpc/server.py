"""A gRPC server with health, reflection and a graceful end."""

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.domain.settings import ServerSettings
from services.observability.logs import get_logger
from services.rpc.call_room import CallRoom
from services.rpc.encryption import server_credentials
from services.rpc.guard import Guard, let_pass
from services.rpc.health import HealthService
from services.rpc.interceptors import CallInterceptor
from triptych.domain.errors import ConfigurationError, StageUnavailable

_OPTIONS = [
    # Two processes on one port would share its calls at random: refuse the second one instead.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A caller that is gone without a word is noticed after 50 s, and what it asked for is ended.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # What gRPC really waits for an answer, a minute by default; the former bounds TCP's own wait.
    ("grpc.http2.ping_timeout_ms", 20_000),
]

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""As large as gRPC's own servers and clients take unless told otherwise."""

# Those who wait for what broke have been told; this is for the words to reach them.
_LAST_WORDS_SECONDS = 5.0

_log = get_logger(__name__)


class ServiceServer:
    """Serves until SIGTERM or SIGINT, then lets running calls finish.

    Args:
        stage: who serves, for the metrics: a stage, or the gateway.
        settings: where to listen, whether to reflect, how many calls to take, how long to drain.
        services: full names of the services, for health and reflection; their servicers are added
            to `grpc` before `start`.
        max_message_bytes: larger messages are refused before they are read.
        guard: called with every call of ours; what it raises refuses the call.

    Raises:
        ConfigurationError: a certificate or key cannot be read.
    """

    def __init__(
        self,
        stage: str,
        settings: ServerSettings,
        services: Sequence[str],
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        guard: Guard = let_pass,
    ) -> None:
        self._settings = settings
        self._credentials = None if settings.tls is None else server_credentials(settings.tls)
        self._services = ("", *services)
        self.grpc = grpc.aio.server(
            interceptors=[CallInterceptor(stage, CallRoom(settings.max_concurrent_calls), guard)],
            options=[*_OPTIONS, ("grpc.max_receive_message_length", max_message_bytes)],
        )
        self._health = HealthService()
        self._stopping = asyncio.Event()
        self._failure: StageUnavailable | None = None
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        if settings.reflects:
            names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self.grpc)

    async def start(self) -> None:
        """Listens, not yet serving.

        Raises:
            ConfigurationError: the address is taken or not an address.
        """
        await self.set_serving(serving=False)
        try:
            _refuse_served_socket(self._settings.listen)
            port = self._listen()
        except (RuntimeError, OSError) as error:
            await self.close()
            raise ConfigurationError(
                f"listen: cannot listen on {self._settings.listen}; another process may use it,"
                " or it is not host:port or unix:/path"
            ) from error
        await self.grpc.start()
        host, colon, asked = self._settings.listen.rpartition(":")
        bound = f"{host}:{port}" if colon and asked == "0" else self._settings.listen
        _log.info("listening", address=bound, tls=self._credentials is not None)

    def _listen(self) -> int:
        if self._credentials is None:
            return self.grpc.add_insecure_port(self._settings.listen)
        return self.grpc.add_secure_port(self._settings.listen, self._credentials)

    async def set_serving(self, *, serving: bool) -> None:
        """What the health service answers for every service of this process."""
        for name in self._services:
            await self._health.set(name, serving=serving)

    async def run(self, on_draining: Callable[[], None] = lambda: None) -> None:
        """Returns when a signal asked for the end and running calls have finished or timed out.

        Args:
            on_draining: called as soon as the end is asked for.

        Raises:
            StageUnavailable: the end came by `fail`.
        """
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._stopping.set)
        await self._stopping.wait()
        seconds = self._settings.drain_seconds
        if self._failure is not None:
            seconds = min(seconds, _LAST_WORDS_SECONDS)
        _log.info("draining", seconds=seconds)
        on_draining()
        await self._health.end()
        await self.grpc.stop(seconds)
        _log.info("stopped")
        if self._failure is not None:
            raise self._failure

    def is_draining(self) -> bool:
        """Whether the end was asked for."""
        return self._stopping.is_set()

    async def stopping(self) -> None:
        """Returns once the end was asked for."""
        await self._stopping.wait()

    def stop(self) -> None:
        """Asks for the end, as SIGTERM does."""
        self._stopping.set()

    async def fail_when(self, broken: Awaitable[StageUnavailable]) -> None:
        """Makes `run` end when the process can do its work no more; runs until it is cancelled."""
        self._failure = await broken
        self._health.alive = False
        self.stop()
        # The end is for `run` to tell, once the last calls are answered.
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Ends at once, unless `run` has ended already; for failures elsewhere in the process."""
        await self.grpc.stop(0)


def _refuse_served_socket(listen: str) -> None:
    """Raises OSError if a process listens there; gRPC would take its socket's file away."""
    if not listen.startswith("unix:"):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(listen.removeprefix("unix:"))
        except (FileNotFoundError, ConnectionRefusedError):
            # Nobody is there; at most the file that a killed process left.
            return
    raise OSError("the socket is served")
