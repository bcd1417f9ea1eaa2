"""Which replicas serve a request: pure functions over what the replicas report."""

from collections.abc import Sequence

from services.gateway.agreement import Pools, R, Reported, agreeing, held_by
from triptych.domain.errors import (
    ConfigurationError,
    ModelNotFound,
    StageLoading,
    StageUnavailable,
    TensorRefused,
)
from triptych.domain.model import ModelInfo, Stage


def served_models(pools: Pools[R]) -> dict[str, ModelInfo]:
    """Models that a request may name now: held by a working replica of every stage.

    The denoiser's account of a model counts: its type is the one that draws.
    """
    served = {name: _served(name, pools) for name in sorted(held_models(pools))}
    return {name: model for name, model in served.items() if model is not None}


def _served(name: str, pools: Pools[R]) -> ModelInfo | None:
    agreed = agreeing(name, pools)
    return None if agreed is None else held_by(agreed[Stage.DENOISER][0])[name].model


def ready_replicas(stage: Stage, name: str, pools: Pools[R]) -> int:
    """How many replicas of a stage a request for a model may be given to."""
    holders = sum(name in held_by(each) for each in pools[stage])
    return holders - incompatible_replicas(stage, name, pools)


def incompatible_replicas(stage: Stage, name: str, pools: Pools[R]) -> int:
    """How many working replicas of a stage hold another model than is served under the name."""
    agreed = agreeing(name, pools)
    if agreed is None:
        return 0
    return sum(name in held_by(each) for each in pools[stage]) - len(agreed[stage])


def held_models(pools: Pools[R]) -> set[str]:
    """Names of the models that any working replica holds."""
    return {name for replicas in pools.values() for each in replicas for name in held_by(each)}


def choose_model(name: str, pools: Pools[R]) -> ModelInfo:
    """The model a request means.

    Args:
        name: the model's name; empty while exactly one is served.
        pools: the replicas of each stage.

    Raises:
        StageLoading: a stage has no replica that works yet.
        StageUnavailable: a stage has no working replica, or none that holds the model.
        ModelNotFound: no such model is served, or the name is empty and several are.
        ConfigurationError: the stages hold different models under its name.
    """
    for stage, replicas in pools.items():
        if not any(held_by(each) for each in replicas):
            raise missing(f"the {stage}", replicas)
    if (model := _served(name, pools)) is not None:
        return model
    models = served_models(pools)
    if not name and len(models) == 1:
        return next(iter(models.values()))
    _check_up(name, pools)
    raise ModelNotFound(name, list(models))


def missing(what: str, replicas: Sequence[Reported]) -> StageUnavailable:
    """Why none of a stage's replicas works.

    Args:
        what: the stage, for the message.
        replicas: all of them.
    """
    if any(each.last_capacity and each.last_capacity.loading for each in replicas):
        return StageLoading(f"{what} is loading its model; repeat the request later")
    if any(not each.answered for each in replicas):
        return StageLoading(
            f"{what} has not answered yet: it is starting, or is not reached; repeat the request"
            " later"
        )
    return StageUnavailable(f"{what} is down; repeat the request later")


def common_store(name: str, pools: Pools[R]) -> str:
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
            if each.last_capacity and name in held_by(each)
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
    return min(common, key=lambda store: (_requests_at(store, name, pools), store))


def able_replicas(replicas: Sequence[R], stage: Stage, name: str, store: str) -> list[R]:
    """The working replicas of a stage that hold a model and use a tensor store.

    Raises:
        StageUnavailable: none of the stage's works.
        TensorRefused: those that work use other stores, where the request's tensors are not.
    """
    able = [replica for replica in replicas if name in held_by(replica)]
    if not able:
        raise StageUnavailable(f"no working {stage} holds {name}; repeat the request later")
    sharing = [replica for replica in able if _store_of(replica) == store]
    if not sharing:
        raise TensorRefused(f"no working {stage} of {name} uses the tensor store {store}")
    return sharing


def least_busy(replicas: Sequence[R]) -> R:
    """The replica with the fewest requests."""
    return min(replicas, key=_requests_on)


def _store_of(replica: Reported) -> str | None:
    return None if replica.last_capacity is None else replica.last_capacity.tensor_store


def _check_up(name: str, pools: Pools[R]) -> None:
    lacking = [
        stage
        for stage, replicas in pools.items()
        if not any(name in held_by(each) for each in replicas)
    ]
    if not lacking:
        raise ConfigurationError(
            f"replicas disagree on what {name} is; give different models different names"
        )
    if len(lacking) < len(pools):
        idle = [each for each in pools[lacking[0]] if not held_by(each)]
        raise missing(f"the {lacking[0]} of {name}", idle)


def _requests_at(store: str, name: str, pools: Pools[R]) -> int:
    able = able_replicas(pools[Stage.DENOISER], Stage.DENOISER, name, store)
    return _requests_on(least_busy(able))


def _requests_on(replica: Reported) -> int:
    reported = replica.last_capacity
    known = 0 if reported is None else reported.running_requests + reported.queued_requests
    return known + replica.assigned
