"""Groups of real rank processes, started once, that denoise one request after another."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file

from tests.conformance.rank_process import TIMEOUT, Report, Task
from tests.processes import start
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.generation import GenerationParameters
from triptych.domain.parallel import ParallelDegrees

MOST = 4


@dataclass(frozen=True)
class Together:
    """What the ranks of a group made together.

    Attributes:
        degrees: how the request was spread.
        latents: the first rank's.
        checksums: of every rank's.
        decisions: of every rank, by step.
    """

    degrees: ParallelDegrees
    latents: torch.Tensor
    checksums: list[int]
    decisions: list[list[list[BranchDecision]]]


class Ranks:
    """As many processes as the largest group takes.

    Args:
        folder: for what passes between them and the test.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=TIMEOUT)
        self._processes = [
            start(
                *("tests.conformance.rank_process", str(number), str(self._meeting.port)),
                fed=True,
                piped=True,
            )
            for number in range(MOST)
        ]
        self._degrees = ParallelDegrees()
        self._group = 0

    def denoise(
        self,
        directory: Path,
        degrees: ParallelDegrees,
        parameters: GenerationParameters,
        conditioning: dict[str, torch.Tensor],
        *,
        double: bool = False,
    ) -> Together:
        """Denoises a request on the first ranks.

        Args:
            directory: of the model.
            degrees: of ONE_RANK there is one process without others, not a group.
            parameters: effective values.
            conditioning: all that the denoiser takes.
            double: whether to compute in float64.
        """
        if degrees.ranks > 1 and degrees != self._degrees:
            self._degrees, self._group = degrees, self._group + 1
        given, made = (self._folder / f"{name}.safetensors" for name in ("given", "made"))
        save_file({name: each.contiguous() for name, each in conditioning.items()}, given)
        task = Task(
            group=self._group,
            directory=directory,
            degrees=degrees,
            parameters=parameters,
            conditioning=given,
            latents=made,
            double=double,
        )
        group = self._processes[: degrees.ranks]
        for each in group:
            assert each.stdin is not None
            each.stdin.write(task.model_dump_json() + "\n")
            each.stdin.flush()
        reports = []
        for each in group:
            assert each.stdout is not None
            line = each.stdout.readline()
            assert line, "a rank ended; what it said is above"
            reports.append(Report.model_validate_json(line))
        return Together(
            reports[0].degrees,
            load_file(made)["latents"],
            [each.checksum for each in reports],
            [each.decisions for each in reports],
        )

    def close(self) -> None:
        for each in self._processes:
            each.kill()
            each.wait()
            for stream in (each.stdin, each.stdout):
                assert stream is not None
                stream.close()


@contextmanager
def running_ranks(folder: Path) -> Iterator[Ranks]:
    """Ranks that end with the tests that use them."""
    ranks = Ranks(folder)
    try:
        yield ranks
    finally:
        ranks.close()
