"""Which replicas serve a request: pure functions over what the replicas report."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from services.domain.stages import Capacity
from triptych.domain.acceleration import NO_CACHE, CacheSupport
from triptych.domain.errors import ConfigurationError, ModelNotFound, StageUnavailable
from triptych.domain.model import Capabilities, ModelInfo, Stage


class Reported(Protocol):
    """A replica of which something is known, or nothing while it does not answer."""

    @property
    def last_capacity(self) -> Capacity | None:
        """What it last reported; None while it is down."""
        ...

    @property
    def assigned(self) -> int:
        """Requests it was chosen for since then."""
        ...


R = TypeVar("R", bound=Reported)
Pools = Mapping[Stage, Sequence[Reported]]


def served_models(pools: Pools) -> dict[str, ModelInfo]:
    """Models that a request may name now: held by a working replica of every stage.

    The denoiser's account of a model counts: its type is the one that draws.
    """
    held = {stage: _models(replicas) for stage, replicas in pools.items()}
    everywhere = set.intersection(*(set(models) for models in held.values()))
    return {name: held[Stage.DENOISER][name] for name in sorted(everywhere)}


def ready_replicas(stage: Stage, name: str, pools: Pools) -> int:
    """How many replicas of a stage a request for a model may be given to."""
    return sum(name in _models([each]) for each in pools[stage])


def held_models(pools: Pools) -> set[str]:
    """Names of the models that any working replica holds."""
    return set().union(*(_models(replicas) for replicas in pools.values()))


def choose_model(name: str, pools: Pools) -> ModelInfo:
    """The model a request means.

    Args:
        name: the model's name; empty while exactly one is served.
        pools: the replicas of each stage.

    Raises:
        StageUnavailable: a stage has no working replica, or none that holds the model.
        ModelNotFound: no such model is served, or the name is empty and several are.
        ConfigurationError: replicas hold different models under its name.
    """
    for stage, replicas in pools.items():
        if not any(_works(each) for each in replicas):
            raise StageUnavailable(f"the {stage} is down; repeat the request later")
    models = served_models(pools)
    if not name and len(models) == 1:
        (name,) = models
    if name not in models:
        _check_up(name, pools)
        raise ModelNotFound(name, list(models))
    _check_agreement(name, pools)
    return models[name]


def common_store(name: str, pools: Pools) -> str:
    """The tensor store to work in, of those that working replicas of every stage share.

    Only replicas that hold the model count. Of several stores, each a host's for example, it is
    the one whose least busy denoiser has the fewest requests: the loop takes most of a request.

    Raises:
        ConfigurationError: there is none.
        StageUnavailable: nor is there, but their servers may just have been restarted.
    """
    stores = {
        stage: {
            each.last_capacity.tensor_store
            for each in replicas
            if each.last_capacity and name in _models([each])
        }
        for stage, replicas in pools.items()
    }
    common = set.intersection(*stores.values())
    if not common:
        seen = "; ".join(f"{stage}: {', '.join(sorted(each))}" for stage, each in stores.items())
        problem = f"the stages that hold {name} share no tensor store ({seen})"
        if all(each.startswith("redis:") for each in set.union(*stores.values())):
            raise StageUnavailable(
                f"{problem}; repeat the request if their server was restarted just now, otherwise"
                " start them with the same --store"
            )
        raise ConfigurationError(f"{problem}; start them with the same --store")
    denoisers = pools[Stage.DENOISER]
    return min(common, key=lambda each: (_requests_on(least_busy(denoisers, name, each)), each))


def least_busy(replicas: Sequence[R], name: str, store: str) -> R:
    """The working replica with the fewest requests among those that hold the model.

    Raises:
        StageUnavailable: none of them uses the store.
    """
    able = [
        each
        for each in replicas
        if each.last_capacity
        and each.last_capacity.tensor_store == store
        and name in _models([each])
    ]
    if not able:
        raise StageUnavailable(f"no working replica holds {name}; repeat the request later")
    return min(able, key=_requests_on)


def _check_up(name: str, pools: Pools) -> None:
    lacking = [stage for stage, replicas in pools.items() if name not in _models(replicas)]
    if len(lacking) < len(pools):
        raise StageUnavailable(f"the {lacking[0]} of {name} is down; repeat the request later")


def _check_agreement(name: str, pools: Pools) -> None:
    accounts = [
        _models([replica])[name]
        for replicas in pools.values()
        for replica in replicas
        if name in _models([replica])
    ]
    # The type may differ from stage to stage; the model may not.
    first, *others = [(each.family, _without_cache(each.capabilities)) for each in accounts]
    # What is reused between steps is the denoisers' alone to say, but all of them alike.
    denoisers = [
        held[name] for held in (_models([each]) for each in pools[Stage.DENOISER]) if name in held
    ]
    alike = all(each.capabilities == denoisers[0].capabilities for each in denoisers)
    if not alike or any(each != first for each in others):
        raise ConfigurationError(
            f"replicas disagree on what {name} is; give different models different names"
        )


def _without_cache(capabilities: Capabilities) -> Capabilities:
    defaults = replace(capabilities.defaults, cache=NO_CACHE, cache_min_steps=0)
    return replace(capabilities, cache_support=CacheSupport(), defaults=defaults)


def _requests_on(replica: Reported) -> int:
    reported = replica.last_capacity
    known = 0 if reported is None else reported.running_requests + reported.queued_requests
    return known + replica.assigned


def _works(replica: Reported) -> bool:
    capacity = replica.last_capacity
    return capacity is not None and not capacity.draining and bool(capacity.models)


def _models(replicas: Iterable[Reported]) -> dict[str, ModelInfo]:
    return {
        loaded.model.name: loaded.model
        for each in replicas
        if each.last_capacity and _works(each)
        for loaded in each.last_capacity.models
    }
