"""A cluster whose model has a cache profile: what requests get that name no cache."""

from collections.abc import Iterator

import pytest

from services.loaded_models.cache_profile import profiled_model
from services.model_families import find_family
from services.model_files.directory import ModelDirectory
from tests.processes import run
from tests.system.running_cluster import MODEL, RunningCluster, running_cluster
from tests.unit.loaded_models.profiles import COEFFICIENTS, profile
from triptych import Client
from triptych.domain.acceleration import CacheDit, NoCache, TeaCache
from triptych.generation import Generation

PROMPT = "a red circle on a blue background"


@pytest.fixture(scope="module", params=["split", "fused"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningCluster]:
    file = tmp_path_factory.mktemp("profile") / "profile.json"
    directory = ModelDirectory(MODEL)
    profile(profiled_model(directory, find_family(directory).spec)).write(file)
    options = ("--topology", request.param, "--cache-profile", str(file))
    with running_cluster(*options) as running:
        yield running


@pytest.fixture
def client(cluster: RunningCluster) -> Iterator[Client]:
    with cluster.client() as client:
        yield client


def drawn(client: Client, steps: int, cache: object = None) -> Generation:
    return client.generate(PROMPT, seed=1, steps=steps, cache=cache)  # type: ignore[arg-type]


def test_a_request_that_names_no_cache_gets_the_models_default(client: Client) -> None:
    info = client.model("triptych-demo")
    assert isinstance(info.defaults.cache, CacheDit)
    assert info.defaults.cache_min_steps == 10
    plain, cached = drawn(client, 12, NoCache()), drawn(client, 12)
    assert plain.parameters.cache == NoCache()
    assert plain.cache_statistics is None
    # Said in the result, as if the request had asked for it.
    assert cached.parameters.cache == info.defaults.cache
    assert cached.cache_statistics is not None
    assert drawn(client, 12, info.defaults.cache).data == cached.data


def test_a_request_with_fewer_steps_than_the_default_takes_gets_none(client: Client) -> None:
    few = drawn(client, 4)
    assert few.parameters.cache == NoCache()
    assert few.data == drawn(client, 4, NoCache()).data


def test_a_requests_own_cache_wins_and_gets_the_models_coefficients(client: Client) -> None:
    limits = client.model("triptych-demo").limits
    assert limits.tea_cache_coefficients == COEFFICIENTS
    assert limits.tea_cache_coefficients_source == "calibrated"
    asked = drawn(client, 12, TeaCache(rel_l1_thresh=0.3))
    assert asked.parameters.cache == TeaCache(
        rel_l1_thresh=0.3, coefficients=COEFFICIENTS, compute_last_step=True
    )


def test_the_cluster_says_what_its_default_is(cluster: RunningCluster) -> None:
    shown = ("triptych", "models", "triptych-demo", "--target", cluster.target)
    said = run(*shown, environment={"COLUMNS": "300"}).stdout
    assert "tea_cache (calibrated coefficients)" in said
    assert "cache_dit=0.24,fn_compute_blocks=1," in said
    assert "from 10 steps on" in said
