import pytest

from denoiser_service.rank.process_group import RankEnvironment, own_device
from triptych.domain.errors import ConfigurationError

TORCHRUN = {
    "RANK": "9",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "16",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "GROUP_WORLD_SIZE": "2",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_USE_AGENT_STORE": "False",
}


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_a_rank_reads_what_torchrun_says(torchrun: pytest.MonkeyPatch) -> None:
    environment = RankEnvironment()
    environment.check()
    assert (environment.rank, environment.local_rank, environment.world_size) == (9, 1, 16)
    assert (environment.master_addr, environment.master_port) == ("10.0.0.1", 29500)


def test_without_torchrun_a_rank_is_alone() -> None:
    environment = RankEnvironment()
    assert (environment.rank, environment.world_size) == (0, 1)


def test_several_hosts_whose_ranks_would_not_meet_again_are_refused(
    torchrun: pytest.MonkeyPatch,
) -> None:
    torchrun.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(ConfigurationError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE"):
        RankEnvironment().check()
    torchrun.setenv("GROUP_WORLD_SIZE", "1")
    RankEnvironment().check()


def test_each_rank_of_a_host_has_a_device_of_its_own(torchrun: pytest.MonkeyPatch) -> None:
    assert own_device("cuda", RankEnvironment()) == "cuda:1"
    assert own_device("cpu", RankEnvironment()) == "cpu"
    torchrun.setenv("WORLD_SIZE", "1")
    assert own_device("cuda:3", RankEnvironment()) == "cuda:3"
