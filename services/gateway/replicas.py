"""The replicas the gateway knows, and what each last reported."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Any

from services.domain.stages import Denoiser, Encoder, Replica, Vae
from services.gateway.agreement import agreeing, held_by
from services.gateway.routing import (
    able_replicas,
    choose_model,
    common_store,
    incompatible_replicas,
    least_busy,
    missing,
    ready_replicas,
    served_models,
)
from services.gateway.watched import Watched
from services.observability.logs import get_logger
from services.observability.metrics import Reading
from services.observability.tracked import UNKNOWN
from services.rpc.process import run_until_first_ends
from triptych.domain.deadline import Deadline
from triptych.domain.errors import (
    ConfigurationError,
    StageLoading,
    StageUnavailable,
    TriptychError,
)
from triptych.domain.model import ModelInfo, Stage
from triptych.domain.receipt import Receipt

_log = get_logger(__name__)


class ReplicaPools:
    """The replicas of the three stages.

    Args:
        encoders: at least one.
        denoisers: at least one.
        vaes: at least one.
        poll_seconds: pause between looks at a replica.
        on_change: told whether any model can be served: at first, and whenever that changes.
        start_patience_seconds: how long every replica is waited for before that counts.
        clock: seconds that only grow.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encoders = [Watched(Stage.ENCODER, each, clock) for each in encoders]
        self._denoisers = [Watched(Stage.DENOISER, each, clock) for each in denoisers]
        self._vaes = [Watched(Stage.VAE, each, clock) for each in vaes]
        self._poll_seconds = poll_seconds
        self._on_change = on_change
        self._complete = False
        self._serving: bool | None = None
        self._incompatible: set[tuple[str, str]] = set()
        self._told: tuple[object, ...] = ()
        self._patience = Deadline.after(start_patience_seconds)

    async def watch(self) -> None:
        """Looks at every replica again and again; runs until it is cancelled.

        At each for itself: one that hangs makes no report of the others old.
        """
        await run_until_first_ends(*(self._watch(replica) for replica in self._replicas()))

    async def look(self) -> None:
        """Looks at every replica once."""
        await asyncio.gather(*(each.look() for each in self._replicas()))
        await self._tell()

    def models(self) -> dict[str, ModelInfo]:
        """Models that a request may name now, by name."""
        return served_models(self._pools())

    def check_serves(self) -> None:
        """Raises StageUnavailable, saying what every stage lacks, if no model is served at all."""
        if self.models():
            return
        known = sorted(self._known()) or [""]
        lacking = [
            missing(f"the {stage} of {name}" if name else f"the {stage}", replicas)
            for name in known
            for stage, replicas in self._pools().items()
            if not any(name in held_by(each) if name else held_by(each) for each in replicas)
        ]
        if not lacking:
            raise ConfigurationError(f"nothing is served: replicas disagree on {', '.join(known)}")
        said = "; ".join(str(each).split("; ")[0] for each in lacking)
        starting = any(isinstance(each, StageLoading) for each in lacking)
        kind = StageLoading if starting else StageUnavailable
        raise kind(f"nothing is served yet: {said}")

    def ready(self) -> Iterator[Reading]:
        """How many replicas of each stage hold each model that is known; for any thread."""
        pools = self._pools()
        for stage in pools:
            for name in self._known() or (UNKNOWN,):
                yield ready_replicas(stage, name, pools), {"stage": stage, "model": name}

    def incompatible(self) -> Iterator[Reading]:
        """How many hold another model under its name; for any thread."""
        pools = self._pools()
        for stage in pools:
            for name in self._known():
                yield incompatible_replicas(stage, name, pools), {"stage": stage, "model": name}

    def served(self, name: str) -> ModelInfo:
        """The model that a request means.

        Raises:
            StageUnavailable, ModelNotFound, ConfigurationError: see services.gateway.routing.
        """
        return choose_model(name, self._pools())

    def store(self, name: str) -> str:
        """The tensor store for a job of a model that has no tensors yet.

        Raises:
            StageUnavailable, ModelNotFound, ConfigurationError: see services.gateway.routing.
        """
        return common_store(name, self._agreeing(name))

    def choose(
        self, stage: Stage, name: str, store: str, avoided: Collection[Watched[Any]] = ()
    ) -> Watched[Any]:
        """The least busy replica of a stage, which now has a request more.

        Args:
            stage: whose.
            name: of the model.
            store: where the request's tensors are.
            avoided: chosen only where there is no other.

        Raises:
            StageUnavailable, ModelNotFound, ConfigurationError: see services.gateway.routing.
            TensorRefused: replicas that work are all of other stores.
        """
        able = able_replicas(self._agreeing(name)[stage], stage, name, store)
        chosen = least_busy([replica for replica in able if replica not in avoided] or able)
        chosen.assigned += 1
        return chosen

    def has_others(
        self, stage: Stage, name: str, store: str, avoided: Collection[Watched[Any]]
    ) -> bool:
        """Whether a stage has a replica for a request beside those that are avoided."""
        try:
            able = able_replicas(self._agreeing(name)[stage], stage, name, store)
        except TriptychError:
            return False
        return any(replica not in avoided for replica in able)

    def receipt(self, name: str) -> Receipt:
        """What the bytes of a model's results depend on, as its replicas say now."""
        agreed = agreeing(name, self._pools()) or {}
        replicas = [replica for members in agreed.values() for replica in members]
        reports = [replica.last_capacity for replica in replicas if replica.last_capacity]
        held = [held_by(replica)[name].fingerprints for replica in replicas]
        return Receipt(
            tuple(sorted(set(itertools.chain.from_iterable(held)))),
            tuple(sorted({version for report in reports for version in report.versions})),
        )

    def releasing(self, name: str) -> list[Replica]:
        """Who releases what requests for a model stored: one of each stage for each store.

        Every stage is asked: one may be down, and between hosts each store has its own keeper.
        """
        found: dict[tuple[Stage, str], Replica] = {}
        for stage, replicas in self._pools().items():
            for replica in replicas:
                capacity = replica.last_capacity
                # Also one that is draining: it still releases.
                if capacity and any(each.model.name == name for each in capacity.models):
                    found.setdefault((stage, capacity.tensor_store), replica.port)
        return list(found.values())

    def _agreeing(self, name: str) -> dict[Stage, list[Watched[Any]]]:
        pools = self._pools()
        agreed = agreeing(name, pools)
        if agreed is None:
            choose_model(name, pools)
            raise StageUnavailable(f"no working replicas hold {name}; repeat the request later")
        return agreed

    async def _watch(self, replica: Watched[Any]) -> None:
        while True:
            await replica.look()
            await self._tell()
            await asyncio.sleep(self._poll_seconds)

    async def _tell(self) -> None:
        if not self._complete:
            all_hold = all(
                each.last_capacity and each.last_capacity.models for each in self._replicas()
            )
            self._complete = bool(all_hold) or self._patience.remaining_seconds() == 0
        # Reports come many times a second, and say something new once in a while.
        known = (self._complete, *(replica.changes for replica in self._replicas()))
        if known == self._told:
            return
        self._told = known
        self._log_incompatible()
        serving = self._complete and bool(self.models())
        if serving is not self._serving:
            self._serving = serving
            await self._on_change(serving)

    def _log_incompatible(self) -> None:
        found = {
            (labels["stage"], labels["model"]) for count, labels in self.incompatible() if count
        }
        for stage, model in sorted(found - self._incompatible):
            _log.warning("replica incompatible", stage=stage, model=model)
        self._incompatible = found

    def _known(self) -> set[str]:
        """Names of the models that are there, or were not long ago."""
        return set().union(*(each.known_models for each in self._replicas()))

    def _replicas(self) -> Iterator[Watched[Any]]:
        return itertools.chain(self._encoders, self._denoisers, self._vaes)

    def _pools(self) -> dict[Stage, Sequence[Watched[Any]]]:
        return {
            Stage.ENCODER: self._encoders,
            Stage.DENOISER: self._denoisers,
            Stage.VAE: self._vaes,
        }
