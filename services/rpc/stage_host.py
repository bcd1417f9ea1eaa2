"""The frame around every stage's process."""

import asyncio
from collections.abc import Awaitable, Callable

from services.domain.settings import StageSettings
from services.observability.fullness import watched_fullness
from services.observability.load import watched_load
from services.observability.logs import get_logger
from services.rpc.guard import administrators_alone
from services.rpc.process import run_until_first_ends
from services.rpc.server import ServiceServer
from services.rpc.stage_servicer import STAGE_SERVICES, LocalReplica, add_stage_servicers
from services.rpc.store_calls import StoreCalls
from services.rpc.sweeper import sweep_forever
from triptych.domain.call_seal import CallSeal
from triptych.domain.errors import Unavailable

# All pictures of a request at their largest; clients bring such in streams, to the gateway.
MAX_STAGE_MESSAGE_BYTES = 128 * 1024 * 1024

_log = get_logger(__name__)


class StageHost:
    """Serves one stage beside StageService and TensorStoreService, and sweeps its store.

    Args:
        settings: the process's settings.
        service: full name of the stage's own service; its servicer is added to `server.grpc`.
        replica: the stage.
        calls: to its tensor store; both are closed with the host.
    """

    def __init__(
        self, settings: StageSettings, service: str, replica: LocalReplica, calls: StoreCalls
    ) -> None:
        seal = CallSeal(settings.cluster_secret().get_secret_value())
        self.server = ServiceServer(
            replica.load().stage,
            settings,
            (service, *STAGE_SERVICES),
            MAX_STAGE_MESSAGE_BYTES,
            guard=administrators_alone(seal),
        )
        self._replica = replica
        self._calls = calls
        self._sweep_seconds = settings.sweep_seconds
        add_stage_servicers(self.server, replica, calls)

    async def run(
        self, *, serving: bool, load: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Serves until a signal, drains, and gives the store's memory back.

        Args:
            serving: what the health service says at first.
            load: what has the replica hold its model; it says of itself meanwhile that it loads,
                and a signal ends the process at once.

        Raises:
            ConfigurationError: the address is taken.
            StageUnavailable: the replica broke.
        """
        try:
            await self.server.start()
            if load is not None:
                await load()
            await self.server.set_serving(serving=serving)
            with watched_load(self._replica.load), watched_fullness(self._calls.store):
                await run_until_first_ends(
                    self.server.run(self._replica.drain),
                    self.server.fail_when(self._replica.broken()),
                    sweep_forever(self._calls, self._sweep_seconds),
                )
        finally:
            self._replica.drain()
            await self.server.close()
            await self._replica.close()
            # What a killed rank left behind has no other keeper once this process is gone.
            await self._sweep_last()
            self._calls.close()
            await asyncio.to_thread(self._calls.store.close)

    async def _sweep_last(self) -> None:
        try:
            await self._calls.sweep()
        except Unavailable as error:
            _log.warning("not swept", cause=str(error))
