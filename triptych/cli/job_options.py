"""The arguments of `triptych generate` that say when, and of those that name a job."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from triptych.cli.option_group import with_options
from triptych.cli.request_options import checked_seconds
from triptych.domain.job import Priority, Scheduling

_PANEL = "When to draw it, by a running cluster that serves jobs"

JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="Its id, as `triptych generate --detach` prints it.")
]
ClusterTarget = Annotated[str, typer.Option(metavar="HOST:PORT", help="Cluster to ask.")]
Detach = Annotated[
    bool,
    typer.Option(
        "--detach",
        help="Hand it in, print the job's id and end; `triptych jobs` watches, cancels and fetches"
        " it. Without --output.",
        rich_help_panel=_PANEL,
    ),
]
RequestId = Annotated[
    str | None,
    typer.Option(
        metavar="ID",
        help="With --detach: a name of your own, under which the same request is the same job"
        " however often it is handed in.",
        rich_help_panel=_PANEL,
    ),
]
PriorityName = Annotated[
    Priority | None,
    typer.Option("--priority", help="Which jobs go first.", rich_help_panel=_PANEL),
]
JobDeadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        metavar="SECONDS",
        help="From now on; a job that has not ended by then is stopped.",
        callback=checked_seconds,
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True, slots=True)
class Submission:
    """How a request is handed in.

    Attributes:
        detached: as a job that nobody waits for.
        request_id: of such a job.
        scheduling: None for as the cluster likes.
    """

    detached: bool = False
    request_id: str | None = None
    scheduling: Scheduling | None = None

    def check_alone(self) -> None:
        """Checks that nothing of it needs a running cluster.

        Raises:
            typer.BadParameter: something does.
        """
        wanted = {"--detach": self.detached, "--priority or --deadline": self.scheduling}
        for flag, given in wanted.items():
            if given:
                raise typer.BadParameter("has no effect without --target", param_hint=flag)


def schedulable(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options above in the place of its argument `submission`.

    Args:
        command: takes a Submission as `submission`, by name.
    """
    return with_options(command, "submission", _submission)


def _submission(
    *,
    detach: Detach = False,
    request_id: RequestId = None,
    priority: PriorityName = None,
    deadline: JobDeadline = None,
) -> Submission:
    if request_id is not None and not detach:
        raise typer.BadParameter("has no effect without --detach", param_hint="--request-id")
    if priority is None and deadline is None:
        return Submission(detach, request_id)
    ends = None if deadline is None else time.time() + deadline
    return Submission(detach, request_id, Scheduling(priority or Priority.STANDARD, ends))
