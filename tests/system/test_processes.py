"""Who holds what: every stage its own weights and no others, the gateway none."""

import json
import struct
from pathlib import Path

import psutil
import pytest

from services.domain.stages import Capacity
from services.rpc.stage_clients import RemoteDenoiser, RemoteEncoder, RemoteReplica, RemoteVae
from tests.system.running_cluster import MODEL, RunningCluster
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


def test_the_gateway_and_the_denoisers_supervisor_have_not_loaded_torch(
    split_cluster: RunningCluster,
) -> None:
    assert "libtorch" in mapped_libraries(split_cluster.pid("rank"))
    assert "libtorch" not in mapped_libraries(split_cluster.pid("gateway"))
    assert "libtorch" not in mapped_libraries(split_cluster.pid("denoiser"))


def test_every_stage_is_a_process_of_its_own(split_cluster: RunningCluster) -> None:
    pids = {split_cluster.pid(each) for each in ("gateway", "encoder", "denoiser", "vae", "rank")}

    assert len(pids) == 5
    assert all(psutil.pid_exists(pid) for pid in pids)


def test_files_in_the_store_are_private(split_cluster: RunningCluster) -> None:
    assert split_cluster.store.stat().st_mode & 0o777 == 0o700
    for path in split_cluster.store.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
