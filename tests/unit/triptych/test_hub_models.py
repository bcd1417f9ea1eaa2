"""What the command line makes of models of the hub."""

from pathlib import Path

import pytest
import typer

from triptych.cli.local_cluster import checked_model, patient
from triptych.cluster.address import Address
from triptych.cluster.cluster import ClusterSpec
from triptych.cluster.topology import (
    FETCH_PATIENCE_SECONDS,
    FusedTopology,
    ModelOptions,
    SplitTopology,
)
from triptych.cluster.workplace import Workplace

ADDRESS = Address("127.0.0.1", 7843)
PLACE = Workplace(Path("/run/x"), Path("/run/x/secret"), "shm:///dev/shm/x", Path("/run/x/logs"))


def value_of(flag: str, command: tuple[str, ...]) -> str:
    return command[command.index(flag) + 1]


@pytest.fixture(autouse=True)
def _somewhere_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["Qwen/Qwen-Image", "a/b@v1", "a/b@refs/pr/1"])
def test_a_name_on_the_hub_goes_to_every_process_as_it_is(name: str) -> None:
    options = ModelOptions((checked_model(name),))
    split = SplitTopology(options).processes(ADDRESS, PLACE, drain_seconds=5)
    fused = FusedTopology(options).processes(ADDRESS, PLACE, drain_seconds=5)
    for process in (*split.stages, fused.gateway):
        assert value_of("--model", process.arguments) == name
        assert "--offline" not in process.arguments


def test_offline_goes_to_every_process_that_holds_a_model() -> None:
    options = ModelOptions(("a/b",), offline=True)
    split = SplitTopology(options).processes(ADDRESS, PLACE, drain_seconds=5)
    fused = FusedTopology(options).processes(ADDRESS, PLACE, drain_seconds=5)
    for process in (*split.stages, fused.gateway):
        assert value_of("--offline", process.arguments) == "true"
    assert "--offline" not in split.gateway.arguments


def test_a_directory_wins_over_a_name_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "Qwen" / "Qwen-Image").mkdir(parents=True)
    assert checked_model("Qwen/Qwen-Image") == Path("Qwen/Qwen-Image")
    options = ModelOptions((Path("Qwen/Qwen-Image"),))
    assert options.flags(*options.models)[1] == str(tmp_path / "Qwen" / "Qwen-Image")


@pytest.mark.parametrize("name", ["Qwen-Image", "./Qwen/Qwen-Image", "/a/b", "a/b/c", "a/b@"])
def test_what_is_neither_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"is not a directory; .*org/name@revision"):
        checked_model(name)


def test_a_cluster_that_fetches_its_models_has_time_for_it() -> None:
    def patience(options: ModelOptions) -> tuple[float, float]:
        split = SplitTopology(options)
        gateway = split.processes(ADDRESS, PLACE, drain_seconds=5).gateway
        spec = patient(ClusterSpec(topology=split), options)
        return spec.ready_seconds, float(value_of("--start-patience-seconds", gateway.arguments))

    usual = patience(ModelOptions((Path("/models/demo"),)))
    assert max(usual) < 3600
    assert patience(ModelOptions(("a/b",), offline=True)) == usual
    assert patience(ModelOptions(("a/b",))) == (FETCH_PATIENCE_SECONDS, FETCH_PATIENCE_SECONDS)
