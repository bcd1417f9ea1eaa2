"""Who holds what: every stage its own weights and no others, the gateway none."""

import json
import struct
from pathlib import Path

import psutil
import pytest

from services.domain.stages import Capacity
from services.rpc.stage_clients import RemoteDenoiser, RemoteEncoder, RemoteReplica, RemoteVae
from tests.processes import EXEC
from tests.system.running_cluster import MODEL, RunningCluster, running_cluster
from triptych.domain.deadline import Deadline


async def capacity_of(client: RemoteReplica) -> Capacity:
    try:
        return await client.capacity(Deadline.after(10))
    finally:
        await client.close()


def parameters_in(folder: str) -> int:
    """Counted from the safetensors header, without loading anything."""
    (file,) = (MODEL / folder).glob("*.safetensors")
    with file.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    count = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            elements = 1
            for side in tensor["shape"]:
                elements *= side
            count += elements
    return count


@pytest.mark.parametrize(
    ("stage", "client", "component"),
    [
        ("encoder", RemoteEncoder, "text_encoder"),
        ("denoiser", RemoteDenoiser, "transformer"),
        ("vae", RemoteVae, "vae"),
    ],
)
async def test_a_stage_holds_its_own_weights_and_no_others(
    stage: str,
    client: type[RemoteEncoder | RemoteDenoiser | RemoteVae],
    component: str,
    split_cluster: RunningCluster,
) -> None:
    capacity = await capacity_of(client(f"unix:{split_cluster.sockets}/{stage}.sock"))

    (model,) = capacity.models
    assert [each.name for each in model.components] == [component]
    assert model.components[0].parameter_count == parameters_in(component)
    assert model.components[0].size_bytes == 4 * parameters_in(component)


def mapped_libraries(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.timeout(300)
def test_executed_processes_draw_the_same_and_load_torch_only_where_it_computes(
    split_cluster: RunningCluster,
) -> None:
    pictures = []
    with running_cluster("--launcher", "exec", launcher=EXEC) as executed:
        for cluster in (executed, split_cluster):
            with cluster.client() as client:
                pictures.append(client.generate("a red circle", steps=3, seed=7).data)
        with_torch = {
            name
            for name in ("gateway", "encoder", "denoiser", "vae", "rank")
            if "libtorch" in mapped_libraries(executed.pid(name))
        }
    assert pictures[0] == pictures[1]
    assert with_torch == {"encoder", "vae", "rank"}


def test_every_stage_is_a_process_of_its_own(split_cluster: RunningCluster) -> None:
    pids = {split_cluster.pid(each) for each in ("gateway", "encoder", "denoiser", "vae", "rank")}

    assert len(pids) == 5
    assert all(psutil.pid_exists(pid) for pid in pids)
    assert {psutil.Process(pid).ppid() for pid in pids} == {
        *(split_cluster.process.pid, split_cluster.pid("denoiser")),
    }


def test_a_cluster_and_its_denoiser_have_fork_servers_that_could_be_used(
    split_cluster: RunningCluster,
) -> None:
    for starter in (split_cluster.process.pid, split_cluster.pid("denoiser")):
        children = psutil.Process(starter).children()
        assert sum("fork server" in " ".join(each.cmdline()) for each in children) == 1
    assert "fork server is lost" not in split_cluster.output
    assert "fork server lost" not in (split_cluster.logs / "denoiser.log").read_text()


def test_files_in_the_store_are_private(split_cluster: RunningCluster) -> None:
    assert split_cluster.store.stat().st_mode & 0o777 == 0o700
    for path in split_cluster.store.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
