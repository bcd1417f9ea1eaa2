import pytest
import torch

from benchmarks import gpu_real_size

pytestmark = pytest.mark.slow


def test_it_runs_from_end_to_end_at_small_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_real_size.main(["--tiny", "--steps", "10", "--model", "flux.1-dev"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| flux")]
    # Every cache by ours; all but TeaCache by stock diffusers too, which give the same bits.
    assert sum("| ours |" in line for line in table) == 4
    assert sum("| stock |" in line for line in table) == 3
    assert sum(line.endswith("| yes |") for line in table) == 3


def test_it_refuses_to_run_real_sizes_without_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_real_size.main([]) == 2
    assert "no CUDA device is here" in capsys.readouterr().err
