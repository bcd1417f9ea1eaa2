from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain.stages import Capacity
from services.gateway.agreement import agreeing
from services.gateway.routing import (
    able_replicas,
    choose_model,
    common_store,
    incompatible_replicas,
    least_busy,
    ready_replicas,
    served_models,
)
from tests.unit.domain.examples import STORE, capacity
from triptych.domain.acceleration import CacheMethod, CacheSupport, TeaCache
from triptych.domain.errors import (
    ConfigurationError,
    ModelNotFound,
    StageLoading,
    StageUnavailable,
    TensorRefused,
)
from triptych.domain.model import Stage
from triptych.domain.receipt import Fingerprint

OTHER_STORE = f"shm:{'6' * 32}"


@dataclass
class Known:
    last_capacity: Capacity | None
    assigned: int = 0
    answered: bool = True


DOWN = Known(None)


def _up(*models: str, store: str = STORE, **changes: object) -> Known:
    return Known(capacity(Stage.ENCODER, *models, store=store, **changes))


def _pools(
    encoders: list[Known], denoisers: list[Known], vaes: list[Known]
) -> dict[Stage, list[Known]]:
    return {Stage.ENCODER: encoders, Stage.DENOISER: denoisers, Stage.VAE: vaes}


def _everywhere(*models: str) -> dict[Stage, list[Known]]:
    return _pools([_up(*models)], [_up(*models)], [_up(*models)])


def test_a_model_is_served_if_every_stage_holds_it() -> None:
    pools = _pools([_up("a", "b", "c")], [_up("b"), _up("c", "a")], [_up("a", "c"), _up("d")])
    assert list(served_models(pools)) == ["a", "c"]


def test_a_model_held_by_a_draining_replica_alone_is_not_served() -> None:
    pools = _pools([_up("a")], [_up("a", draining=True)], [_up("a")])
    assert served_models(pools) == {}


def test_the_only_model_need_not_be_named() -> None:
    assert choose_model("", _everywhere("a")).name == "a"


def test_one_of_several_models_must_be_named() -> None:
    pools = _everywhere("a", "b")
    assert choose_model("b", pools).name == "b"
    with pytest.raises(ModelNotFound, match="served models: a, b"):
        choose_model("", pools)


def test_an_unknown_model_is_told_what_is_served() -> None:
    with pytest.raises(ModelNotFound, match="'c' is not served here; served models: a, b"):
        choose_model("c", _everywhere("a", "b"))


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize(
    "replicas", [[], [DOWN], [_up("a", draining=True)], [_up()], [DOWN, _up("a", draining=True)]]
)
def test_a_stage_without_a_working_replica_is_unavailable(
    stage: Stage, replicas: list[Known]
) -> None:
    pools = _everywhere("a") | {stage: replicas}
    with pytest.raises(StageUnavailable, match=f"the {stage} is down"):
        choose_model("a", pools)


def _caching(known: Known, threshold: float) -> Known:
    assert known.last_capacity is not None
    (held,) = known.last_capacity.models
    defaults = replace(held.model.capabilities.defaults, cache=TeaCache(rel_l1_thresh=threshold))
    support = CacheSupport(methods=tuple(CacheMethod), tea_cache_coefficients=(1, 2, 3, 4, 5))
    capabilities = replace(held.model.capabilities, cache_support=support, defaults=defaults)
    model = replace(held.model, capabilities=capabilities)
    changed = replace(held, model=model)
    return Known(replace(known.last_capacity, models=(changed,)))


def test_what_a_model_caches_is_the_denoisers_to_say() -> None:
    pools = _everywhere("a") | {Stage.DENOISER: [_caching(_up("a"), 0.2), _caching(_up("a"), 0.2)]}
    assert choose_model("a", pools).capabilities.defaults.cache == TeaCache(rel_l1_thresh=0.2)


def test_of_denoisers_with_different_cache_profiles_the_most_alike_are_served() -> None:
    few, many = _caching(_up("a"), 0.2), [_caching(_up("a"), 0.3), _caching(_up("a"), 0.3)]
    pools = _everywhere("a") | {Stage.DENOISER: [few, *many]}
    assert choose_model("a", pools).capabilities.defaults.cache == TeaCache(rel_l1_thresh=0.3)
    agreed = agreeing("a", pools)
    assert agreed is not None
    assert agreed[Stage.DENOISER] == many
    counted = [ready_replicas, incompatible_replicas]
    assert [count(Stage.DENOISER, "a", pools) for count in counted] == [2, 1]


def _weighed(known: Known, **fingerprints: str) -> Known:
    """As it would be with such weights."""
    assert known.last_capacity is not None
    (held,) = known.last_capacity.models
    told = tuple(Fingerprint(part, digest) for part, digest in fingerprints.items())
    changed = replace(held, fingerprints=told)
    return Known(replace(known.last_capacity, models=(changed,)))


def test_replicas_with_other_weights_under_one_name_are_never_combined() -> None:
    base = {stage: [_weighed(_up("a"), transformer="base")] for stage in Stage}
    fine = {stage: [_weighed(_up("a"), transformer="fine")] for stage in Stage}
    pools = {stage: [*base[stage], *fine[stage]] for stage in Stage}
    agreed = agreeing("a", pools)
    assert agreed == base
    pools[Stage.VAE] = [*pools[Stage.VAE], *fine[Stage.VAE]]
    agreed = agreeing("a", pools)
    assert agreed is not None
    assert [each[0] for each in agreed.values()] == [each[0] for each in fine.values()]


def test_stages_that_hold_different_weights_alone_serve_nothing() -> None:
    pools = _everywhere("a") | {Stage.DENOISER: [_weighed(_up("a"), vae="fine")]}
    assert served_models(pools).keys() == {"a"}, "what no two of them see is not compared"
    pools[Stage.VAE] = [_weighed(_up("a"), vae="base")]
    assert served_models(pools) == {}
    with pytest.raises(ConfigurationError, match="disagree on what a is"):
        choose_model("a", pools)


@pytest.mark.parametrize(
    ("replica", "said"),
    [
        (Known(None, answered=False), "has not answered yet"),
        (Known(capacity(Stage.VAE, loading=True)), "is loading its model"),
    ],
)
def test_a_stage_that_starts_is_told_apart_from_one_that_is_down(replica: Known, said: str) -> None:
    pools = _everywhere("a") | {Stage.VAE: [DOWN, replica]}
    with pytest.raises(StageLoading, match=f"the vae {said}"):
        choose_model("a", pools)


def test_the_store_is_one_that_all_stages_share() -> None:
    pools = _pools(
        [_up("a", store=OTHER_STORE), _up("a")], [_up("a", store=OTHER_STORE)], [_up("a"), _up("a")]
    )
    pools[Stage.VAE].append(_up("a", store=OTHER_STORE))
    assert common_store("a", pools) == OTHER_STORE


def test_stages_without_a_common_store_are_a_configuration_error() -> None:
    pools = _pools([_up("a")], [_up("a", store=OTHER_STORE)], [_up("a")])
    with pytest.raises(ConfigurationError, match="share no tensor store") as caught:
        common_store("a", pools)
    assert STORE in str(caught.value)
    assert OTHER_STORE in str(caught.value)


def test_each_model_may_live_in_a_store_of_its_own() -> None:
    here, there = _up("a"), _up("b", store=OTHER_STORE)
    pools = _pools([here, there], [here, there], [here, there])
    for name, store in (("a", STORE), ("b", OTHER_STORE)):
        assert common_store(name, pools) == store
        assert len(able_replicas([here, there], Stage.VAE, name, store)) == 1


def test_of_several_common_stores_the_one_with_the_least_busy_denoiser_is_chosen() -> None:
    here, there = _up("a"), _up("a", store=OTHER_STORE)
    for busy, idle in ((STORE, OTHER_STORE), (OTHER_STORE, STORE)):
        denoisers = [
            _up("a", store=busy, running_requests=2),
            _up("a", store=idle, running_requests=4),
            Known(_up("a", store=idle).last_capacity, assigned=1),
        ]
        assert common_store("a", _pools([here, there], denoisers, [here, there])) == idle


def test_a_draining_replica_does_not_decide_on_the_store() -> None:
    leaving = _up("a", draining=True)
    staying = _up("a", store=OTHER_STORE)
    pools = _pools([leaving, staying], [leaving, staying], [leaving, staying])
    assert common_store("a", pools) == OTHER_STORE


def test_the_least_busy_replica_is_chosen() -> None:
    busy = _up("a", running_requests=1, queued_requests=3)
    idle = _up("a", running_requests=1, queued_requests=1)
    assert least_busy([busy, idle, busy]) is idle


def test_requests_since_the_last_report_count_as_well() -> None:
    chosen = Known(_up("a", running_requests=1).last_capacity, assigned=2)
    other = _up("a", running_requests=2)
    assert least_busy([chosen, other]) is other


def test_replicas_that_cannot_serve_are_passed_over_however_idle() -> None:
    able = _up("a", running_requests=9)
    others = [DOWN, _up("b"), _up("a", store=OTHER_STORE), _up("a", draining=True), _up()]
    assert able_replicas([*others, able], Stage.VAE, "a", STORE) == [able]


def test_no_replica_left_is_unavailable() -> None:
    with pytest.raises(StageUnavailable, match="no working vae holds a"):
        able_replicas([DOWN, _up("b")], Stage.VAE, "a", STORE)


def test_replicas_of_other_stores_alone_cannot_read_what_is_there() -> None:
    with pytest.raises(TensorRefused, match="no working vae of a uses the tensor store"):
        able_replicas([_up("a", store=OTHER_STORE)], Stage.VAE, "a", STORE)


known = st.just(DOWN) | st.builds(
    lambda models, store, draining, queued: _up(
        *models, store=store, draining=draining, queued_requests=queued
    ),
    st.sets(st.sampled_from("ab")),
    st.sampled_from([STORE, OTHER_STORE]),
    st.booleans(),
    st.integers(0, 3),
)
replicas = st.lists(known, max_size=3)


@given(replicas, replicas, replicas, st.sampled_from(["", "a", "b", "c"]))
def test_a_route_is_found_or_refused_for_a_reason(
    encoders: list[Known], denoisers: list[Known], vaes: list[Known], name: str
) -> None:
    pools = _pools(encoders, denoisers, vaes)
    try:
        model = choose_model(name, pools)
        store = common_store(model.name, pools)
    except (StageUnavailable, ModelNotFound, ConfigurationError):
        return
    # Once there is a model and a store for it, every stage has a replica for both.
    for stage, each in pools.items():
        chosen = least_busy(able_replicas(each, stage, model.name, store)).last_capacity
        assert chosen is not None
        assert not chosen.draining
        assert chosen.tensor_store == store
        assert model.name in [loaded.model.name for loaded in chosen.models]
