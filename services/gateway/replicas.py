"""The replicas the gateway knows, and what each last reported."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from services.domain.stages import Capacity, Denoiser, Encoder, Replica, Vae
from services.gateway.routing import (
    Pools,
    choose_model,
    common_store,
    held_models,
    least_busy,
    ready_replicas,
    served_models,
)
from services.observability.logs import get_logger
from services.observability.metrics import Reading
from services.observability.tracked import UNKNOWN
from triptych.domain.deadline import Deadline
from triptych.domain.errors import TriptychError
from triptych.domain.model import ModelInfo, Stage

_REPORT_SECONDS = 2.0

P = TypeVar("P", bound=Replica)

_log = get_logger(__name__)


class Watched(Generic[P]):
    """A replica and what is known of it.

    Attributes:
        last_capacity: what it last reported; None while it does not answer.
        assigned: requests it was chosen for since then.
    """

    def __init__(self, stage: Stage, port: P) -> None:
        self.stage = stage
        self.port = port
        self.last_capacity: Capacity | None = None
        self.assigned = 0

    async def look(self) -> None:
        """Asks for its report."""
        was_up = self.last_capacity is not None
        try:
            self.last_capacity = await self.port.capacity(Deadline.after(_REPORT_SECONDS))
        except TriptychError as error:
            self.last_capacity = None
            if was_up:
                _log.warning("replica down", stage=self.stage, cause=str(error))
            return
        self.assigned = 0
        if not was_up:
            _log.info("replica up", stage=self.stage, instance=self.last_capacity.instance_id)


@dataclass(frozen=True, slots=True)
class Route:
    """One replica of each stage that hold the same model and share a tensor store."""

    model: ModelInfo
    encoder: Encoder
    denoiser: Denoiser
    vae: Vae
    replicas: tuple[Watched[Any], ...]

    def assign(self) -> None:
        """Counts a request that was admitted as its replicas'."""
        for each in self.replicas:
            each.assigned += 1


class ReplicaPools:
    """The replicas of the three stages.

    Args:
        encoders: at least one.
        denoisers: at least one.
        vaes: at least one.
        poll_seconds: pause between looks.
        on_change: told after every look whether any model can be served.
        start_patience_seconds: how long every replica is waited for before that counts.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        denoisers: Sequence[Denoiser],
        vaes: Sequence[Vae],
        *,
        poll_seconds: float,
        on_change: Callable[[bool], Awaitable[None]],
        start_patience_seconds: float = 0.0,
    ) -> None:
        self._encoders = [Watched(Stage.ENCODER, each) for each in encoders]
        self._denoisers = [Watched(Stage.DENOISER, each) for each in denoisers]
        self._vaes = [Watched(Stage.VAE, each) for each in vaes]
        self._poll_seconds = poll_seconds
        self._on_change = on_change
        self._complete = False
        self._seen: frozenset[str] = frozenset()
        self._patience = Deadline.after(start_patience_seconds)

    async def watch(self) -> None:
        """Looks at every replica again and again; runs until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._poll_seconds)

    async def look(self) -> None:
        """Looks at every replica once."""
        looks = [
            *(each.look() for each in self._encoders),
            *(each.look() for each in self._denoisers),
            *(each.look() for each in self._vaes),
        ]
        await asyncio.gather(*looks)
        if not self._complete:
            replicas = (each for pool in self._pools().values() for each in pool)
            all_hold = all(each.last_capacity and each.last_capacity.models for each in replicas)
            self._complete = bool(all_hold) or self._patience.remaining_seconds() == 0
        self._seen |= held_models(self._pools())
        await self._on_change(self._complete and bool(self.models()))

    def models(self) -> dict[str, ModelInfo]:
        """Models that a request may name now, by name."""
        return served_models(self._pools())

    def ready(self) -> Iterator[Reading]:
        """How many replicas of each stage hold each model that was ever seen; for any thread."""
        pools = self._pools()
        for stage in pools:
            for name in self._seen or (UNKNOWN,):
                yield ready_replicas(stage, name, pools), {"stage": stage, "model": name}

    def route(self, name: str) -> Route:
        """The least busy replica of each stage for a request.

        Raises:
            StageUnavailable, ModelNotFound, ConfigurationError: see services.gateway.routing.
        """
        pools = self._pools()
        model = choose_model(name, pools)
        store = common_store(model.name, pools)
        encoder = least_busy(self._encoders, model.name, store)
        denoiser = least_busy(self._denoisers, model.name, store)
        vae = least_busy(self._vaes, model.name, store)
        return Route(model, encoder.port, denoiser.port, vae.port, (encoder, denoiser, vae))

    def _pools(self) -> Pools:
        return {
            Stage.ENCODER: self._encoders,
            Stage.DENOISER: self._denoisers,
            Stage.VAE: self._vaes,
        }
