"""What the processes of a cluster are told."""

import os
from dataclasses import replace
from pathlib import Path

from triptych.cluster.address import Address
from triptych.cluster.state import State
from triptych.cluster.topology import FusedTopology, ModelOptions, ProcessSpec, SplitTopology
from triptych.cluster.workplace import Workplace
from triptych.domain.parallel import ParallelDegrees

ADDRESS = Address("127.0.0.1", 7843)
PLACE = Workplace(Path("/run/x"), Path("/run/x/secret"), "shm:///dev/shm/x", Path("/run/x/logs"))
OPTIONS = ModelOptions((Path("/models/demo"),), dtype="bfloat16", device="cuda:0", threads=3)


def flags(process: ProcessSpec) -> dict[str, str]:
    words = process.arguments
    return dict(zip(words[::2], words[1::2], strict=True))


def test_split_stages_share_store_and_secret_and_the_gateway_knows_their_sockets() -> None:
    processes = SplitTopology(OPTIONS).processes(ADDRESS, PLACE, drain_seconds=5)
    sockets = {}
    for stage in processes.stages:
        assert stage.module == f"{stage.name}_service"
        given = flags(stage)
        assert given["--model"] == "/models/demo"
        assert (given["--dtype"], given["--device"]) == ("bfloat16", "cuda:0")
        assert given["--store"] == "shm:///dev/shm/x"
        assert given["--cluster-secret-file"] == "/run/x/secret"
        sockets[f"--{stage.name}"] = given["--listen"]
    assert set(sockets) == {"--encoder", "--denoiser", "--vae"}
    gateway = flags(processes.gateway)
    assert processes.gateway.module == "services.gateway"
    assert gateway["--listen"] == "127.0.0.1:7843"
    assert gateway.items() >= sockets.items()
    assert gateway["--cluster-secret-file"] == "/run/x/secret"


def test_fused_is_one_process_without_store_or_secret() -> None:
    processes = FusedTopology(OPTIONS).processes(ADDRESS, PLACE, drain_seconds=5)
    assert processes.stages == ()
    assert processes.gateway.module == "services.fused"
    given = flags(processes.gateway)
    assert (given["--listen"], given["--threads"]) == ("127.0.0.1:7843", "3")
    assert not {"--store", "--cluster-secret-file"} & given.keys()
    assert processes.servers == ()


def test_who_takes_requests_keeps_jobs_and_artifacts_where_the_state_is() -> None:
    place = replace(PLACE, state=State(Path("/state/x y")))
    for topology in (SplitTopology(OPTIONS), FusedTopology(OPTIONS)):
        processes = topology.processes(ADDRESS, place, drain_seconds=5)
        given = flags(processes.gateway)
        assert given["--jobs"] == "redis+unix:///run/x/ledger.sock"
        assert given["--artifacts"] == "file:///state/x%20y/artifacts"
        # What a job gave is there for as long as the job is.
        assert given["--artifact-ttl-seconds"] == given["--job-ttl-seconds"]
        (ledger,) = processes.servers
        assert ledger.arguments[1:] == ("/run/x/ledger.sock", "/state/x y/jobs")
        assert not {"--jobs", "--artifacts"} & {
            flag for stage in processes.stages for flag in stage.arguments
        }


def test_only_denoisers_have_ranks() -> None:
    options = ModelOptions((Path("/models/demo"),), degrees=ParallelDegrees(ulysses=2, cfg=2))
    told = {
        each.name: flags(each)
        for each in SplitTopology(options).processes(ADDRESS, PLACE, drain_seconds=5).stages
    }
    assert told["denoiser"].items() >= {"--ulysses": "2", "--cfg": "2"}.items()
    assert "--ring" not in told["denoiser"], "what is left out is one"
    assert not {"--ulysses", "--cfg"} & {*told["encoder"], *told["vae"]}


def test_all_that_encode_are_told_what_to_remember() -> None:
    options = ModelOptions((Path("/models/demo"),), conditioning_cache="1GiB")
    split = SplitTopology(options).processes(ADDRESS, PLACE, drain_seconds=5)
    fused = FusedTopology(options).processes(ADDRESS, PLACE, drain_seconds=5)
    told = {
        each.name: flags(each).get("--conditioning-cache-bytes")
        for each in (*split.stages, fused.gateway)
    }
    assert told == {"encoder": "1GiB", "denoiser": None, "vae": "1GiB", "fused": "1GiB"}


def test_tiles_are_for_those_that_decode_and_kernels_for_those_that_denoise() -> None:
    options = ModelOptions(
        (Path("/models/demo"),), tiling=True, attention_backend="native", compile_blocks=True
    )
    split = SplitTopology(options).processes(ADDRESS, PLACE, drain_seconds=5)
    fused = FusedTopology(options).processes(ADDRESS, PLACE, drain_seconds=5)
    kernels = {"--attention-backend": "native", "--compile-blocks": "true"}
    expected = {
        "encoder": {},
        "denoiser": kernels,
        "vae": {"--tiling": "true"},
        "fused": {"--tiling": "true", **kernels},
    }
    for each in (*split.stages, fused.gateway):
        given = flags(each)
        told = {name: given[name] for name in expected["fused"] if name in given}
        assert told == expected[each.name]
    plain = FusedTopology(OPTIONS).processes(ADDRESS, PLACE, drain_seconds=5).gateway
    assert not expected["fused"].keys() & flags(plain).keys()


def test_every_process_ends_with_its_parent() -> None:
    split = SplitTopology(OPTIONS).processes(ADDRESS, PLACE, drain_seconds=2.5)
    fused = FusedTopology(OPTIONS).processes(ADDRESS, PLACE, drain_seconds=2.5)
    for process in (*split.stages, split.gateway, fused.gateway):
        assert flags(process)["--exit-with-parent"] == str(os.getpid())
        assert flags(process)["--drain-seconds"] == "2.5"


def test_relative_model_directory_is_made_absolute() -> None:
    model = Path("models/demo")
    assert ModelOptions((model,)).flags(model)[1] == str(Path.cwd() / "models/demo")


def test_every_further_model_gets_stages_of_its_own_behind_one_gateway() -> None:
    models = (Path("/models/a"), Path("/models/b"))
    split = SplitTopology(ModelOptions(models)).processes(ADDRESS, PLACE, drain_seconds=5)
    fused = FusedTopology(ModelOptions(models)).processes(ADDRESS, PLACE, drain_seconds=5)

    assert [each.name for each in split.stages] == [
        *("encoder", "denoiser", "vae"),
        *("encoder-2", "denoiser-2", "vae-2"),
    ]
    assert all(
        f"/models/{name}" in split.stages[3 * place].arguments for place, name in enumerate("ab")
    )
    for stage in ("encoder", "denoiser", "vae"):
        doors = [
            split.gateway.arguments[place + 1]
            for place, flag in enumerate(split.gateway.arguments)
            if flag == f"--{stage}"
        ]
        assert doors == [PLACE.socket(stage), PLACE.socket(f"{stage}-2")]
    assert [each for each in fused.gateway.arguments if each.startswith("/models")] == [
        *("/models/a", "/models/b")
    ]


def test_each_models_denoiser_alone_gets_its_cache_profile() -> None:
    models = (Path("/models/a"), Path("/models/b"))
    profiles = (Path("/profiles/a.json"), Path("/profiles/b.json"))
    options = ModelOptions(models, cache_profiles=profiles)
    split = SplitTopology(options).processes(ADDRESS, PLACE, drain_seconds=5)
    told = {each.name: flags(each).get("--cache-profile") for each in split.stages}
    assert {name: file for name, file in told.items() if file} == {
        "denoiser": "/profiles/a.json",
        "denoiser-2": "/profiles/b.json",
    }
    fused = FusedTopology(options).processes(ADDRESS, PLACE, drain_seconds=5).gateway.arguments
    given = [fused[place + 1] for place, flag in enumerate(fused) if flag == "--cache-profile"]
    assert given == list(map(str, profiles))
