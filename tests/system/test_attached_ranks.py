"""Ranks that torchrun started on two nodes, here two loopback addresses, behind one denoiser."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from tests.system.further_denoiser import further_denoiser, shared_flags, started
from tests.system.running_cluster import RunningCluster, until
from triptych import Client, Generation, UnavailableError
from triptych.cluster.address import Address
from triptych.domain.events import StepCompleted
from triptych.events import Event

# The supervisor's node; the ranks and their rendezvous are on another.
SUPERVISOR = "127.0.0.2"
RANKS = "127.0.0.1"


@contextmanager
def two_nodes(cluster: RunningCluster, supervisor: str) -> Iterator[None]:
    """torchrun on each, with one rank."""
    rendezvous = str(Address(RANKS, 0).free())
    torchrun = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={rendezvous}", "--rdzv-id=test"),
        *(f"--local-addr={RANKS}", "--max-restarts=100", "--monitor-interval=0.2"),
        *("-m", "denoiser_service.rank", f"--supervisor={supervisor}", "--cfg=2"),
        *shared_flags(cluster),
    ]
    environment = {
        **os.environ,
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    with ExitStack() as nodes:
        for _ in range(2):
            nodes.enter_context(started(torchrun, environment))
        yield


def attached_ranks() -> dict[int, psutil.Process]:
    found = {}
    for each in psutil.Process().children(recursive=True):
        if "--supervisor" in " ".join(each.cmdline()) and "RANK" in each.environ():
            found[int(each.environ()["RANK"])] = each
    return found


def draw(client: Client) -> Generation:
    return client.generate("two red hearts", steps=4, seed=5)


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(2))
def test_ranks_of_two_nodes_draw_together_and_come_back_when_one_is_killed(
    split_cluster: RunningCluster, tmp_path_factory: pytest.TempPathFactory, number: int
) -> None:
    supervisor = str(Address(SUPERVISOR, 0).free())
    options = (f"--rank-listen={supervisor}", "--cfg=2")
    folder = tmp_path_factory.mktemp("a")
    with (
        split_cluster.client() as alone,
        two_nodes(split_cluster, supervisor),
        further_denoiser(split_cluster, folder, *options, beside=False) as client,
    ):
        expected, drawn = draw(alone), draw(client)
        assert (expected.parallel_degrees.ranks, drawn.parallel_degrees.ranks) == (1, 2)
        assert drawn.latents_checksum_xxh3 == expected.latents_checksum_xxh3

        before = attached_ranks()
        assert sorted(before) == [0, 1]

        def kill(event: Event) -> None:
            if isinstance(event, StepCompleted) and event.step == 3:
                before[number].send_signal(signal.SIGKILL)

        with pytest.raises(UnavailableError):
            client.generate("two red hearts", steps=150, on_event=kill)
        assert until(lambda: not any(each.is_running() for each in before.values()), 60)
        assert until(lambda: _served(client), 200)
        assert draw(client).latents_checksum_xxh3 == expected.latents_checksum_xxh3
        assert not {each.pid for each in before.values()} & {
            each.pid for each in attached_ranks().values()
        }


def _served(client: Client) -> bool:
    try:
        return bool(client.models())
    except UnavailableError:
        return False
