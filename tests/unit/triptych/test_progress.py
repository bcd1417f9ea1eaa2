import io

import pytest
from rich.console import Console

from triptych.cli import progress
from triptych.cli.previews import PreviewFiles
from triptych.cli.progress import ProgressDisplay
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.events import StepCompleted


def shown(monkeypatch: pytest.MonkeyPatch, *decisions: BranchDecision) -> str:
    """What a person's terminal shows of a step."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(progress, "Console", lambda stderr: terminal)
    with ProgressDisplay(wanted=True, previews=PreviewFiles(None)) as display:
        display.on_event(StepCompleted(3, 20, 0.9, 0.1, decisions))
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def test_a_step_shows_what_its_cache_decided_and_on_which_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    conditional = BranchDecision(branch="cond", reused=True, signal=0.0314)
    unconditional = BranchDecision(branch="uncond", reused=False, signal=None)
    text = shown(monkeypatch, conditional, unconditional)
    assert "step 3/20  sigma 0.900  cond reused 0.031  uncond computed" in text


def test_a_step_without_a_cache_shows_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch)
    assert "step 3/20  sigma 0.900" in text
    assert "computed" not in text
