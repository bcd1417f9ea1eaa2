"""What a person sees while a picture is made."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from triptych.cache import BranchDecision
from triptych.cli.stage_label import stage_label
from triptych.events import Accepted, Event, Queued, StageStarted, StepCompleted


class ProgressDisplay:
    """One live line on stderr; silent where that is no terminal, or where it is not wanted."""

    def __init__(self, *, wanted: bool) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not (wanted and console.is_terminal),
        )
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Something of unknown length has begun."""
        self._progress.update(self._task, description=text, completed=0, total=None)

    def on_event(self, event: Event) -> None:
        """Shows what happens to the request."""
        match event:
            case Accepted():
                self.say("accepted")
            case Queued(position=position):
                self.say(f"waiting behind {position} others")
            case StageStarted(stage=stage, task=task):
                self.say(stage_label(stage, task))
            case StepCompleted(step=step, total_steps=total, sigma=sigma, decisions=decisions):
                text = f"denoiser  step {step}/{total}  sigma {sigma:.3f}{_decided(decisions)}"
                self._progress.update(self._task, description=text, completed=step, total=total)


def _decided(decisions: Sequence[BranchDecision]) -> str:
    """For example "  cond reused 0.031  uncond computed 0.120"; the numbers are the signals."""
    return "".join(
        f"  {each.branch} {'reused' if each.reused else 'computed'}"
        + ("" if each.signal is None else f" {each.signal:.3f}")
        for each in decisions
    )
