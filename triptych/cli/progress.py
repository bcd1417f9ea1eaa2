"""What a person sees while a picture is made."""

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from triptych.cli.previews import PreviewFiles, in_half_blocks
from triptych.cli.stage_label import stage_label
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.events import Accepted, Preview, Queued, StageStarted, StepCompleted
from triptych.events import Event


class _PicturedProgress(Progress):
    """A line, and above it a picture if there is one."""

    picture: Text | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn again and again."""
        if self.picture is not None:
            yield self.picture
        yield from super().get_renderables()


class ProgressDisplay:
    """One live line on stderr; silent where that is no terminal, or where it is not wanted.

    Args:
        wanted: whether anything is to be seen.
        previews: where previews go besides.

    Attributes:
        shown: whether anything is seen.
    """

    def __init__(self, *, wanted: bool, previews: PreviewFiles) -> None:
        self._previews = previews
        console = Console(stderr=True)
        self.shown = wanted and console.is_terminal
        self._progress = _PicturedProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not self.shown,
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
            case Preview():
                self._previews.write(event)
                if self.shown:
                    self._progress.picture = in_half_blocks(event.data)
            case StepCompleted(step=step, total_steps=total, sigma=sigma, decisions=decisions):
                which = f"image {event.image_index + 1}  " if event.image_index else ""
                at = f"step {step}/{total}  sigma {sigma:.3f}"
                text = f"denoiser  {which}{at}{_decided(decisions)}"
                self._progress.update(self._task, description=text, completed=step, total=total)


def _decided(decisions: Sequence[BranchDecision]) -> str:
    """For example "  cond reused 0.031  uncond computed 0.120"; the numbers are the signals."""
    return "".join(
        f"  {each.branch} {'reused' if each.reused else 'computed'}"
        + ("" if each.signal is None else f" {each.signal:.3f}")
        for each in decisions
    )
