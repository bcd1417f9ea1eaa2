from pathlib import Path

import pytest

from denoiser_service.rank.process import RankSettings
from denoiser_service.service.settings import DenoiserSettings
from services.model_files.directory import ModelDirectory

DEMO = Path(__file__).parents[3] / "models" / "demo"
TOLD = [
    "--listen=localhost:0",
    f"--model={DEMO}",
    "--store=memory:",
    f"--cluster-secret-file={DEMO / 'triptych.json'}",
]


def _rank_of(*flags: str) -> RankSettings:
    told = DenoiserSettings.read([*TOLD, *flags]).rank_flags(ModelDirectory(DEMO))
    return RankSettings.read([*told, "--channel-fd=3"])


def test_a_rank_leaves_blocks_and_attention_as_published_unless_told() -> None:
    rank = _rank_of()
    assert (rank.attention_backend, rank.compile_blocks) == (None, False)


def test_a_rank_is_told_how_to_execute_blocks() -> None:
    rank = _rank_of("--attention-backend=flash", "--compile-blocks=true")
    assert (rank.attention_backend, rank.compile_blocks) == ("flash", True)


@pytest.mark.parametrize("shared", ["--ulysses=2", "--ring=2", "--cfg=2"])
def test_attention_cannot_be_chosen_where_ranks_share_a_sequence(
    shared: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        DenoiserSettings.read([*TOLD, shared, "--attention-backend=flash"])
    assert caught.value.code == 2
    assert "attention_backend: Value error, is 'flash'; ranks" in capsys.readouterr().err


def test_blocks_are_not_compiled_where_there_are_several_ranks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        DenoiserSettings.read([*TOLD, "--cfg=2", "--compile-blocks=true"])
    assert caught.value.code == 2
    assert "compile_blocks: Value error, is true; " in capsys.readouterr().err


@pytest.mark.parametrize(("told", "steps"), [([], 0), (["=auto"], "auto"), (["=7"], 7)])
def test_requests_are_saved_if_it_is_told_how_often(told: list[str], steps: object) -> None:
    flags = [f"--checkpoint-steps{value}" for value in told]
    assert DenoiserSettings.read([*TOLD, *flags]).checkpoint_steps == steps


@pytest.mark.parametrize("told", ["often", "-1"])
def test_how_often_requests_are_saved_is_a_number_or_decided(
    told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        DenoiserSettings.read([*TOLD, f"--checkpoint-steps={told}"])
    assert caught.value.code == 2
    assert "checkpoint_steps" in capsys.readouterr().err
