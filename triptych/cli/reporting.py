"""What a command says of a result, and where."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from triptych.cli.option_group import with_options
from triptych.cli.report import json_report, print_report
from triptych.cli.request_options import Json, Receipt
from triptych.generation import Generation
from triptych.replay import write_receipt
from triptych.whole_file import write_whole


@dataclass(frozen=True, slots=True)
class Reporting:
    """How a result is reported.

    Attributes:
        as_json: as one JSON object.
        receipt: the file that its receipt is written to.
    """

    as_json: bool = False
    receipt: Path | None = None

    def report(self, generation: Generation, paths: Sequence[Path]) -> None:
        """Writes and prints what was asked for.

        Raises:
            OSError: the receipt cannot be written.
        """
        if self.receipt is not None:
            write_whole(self.receipt, write_receipt(generation).encode())
        if self.as_json:
            typer.echo(json_report(generation, paths))
        else:
            print_report(generation, paths)


def reporting(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command these options in the place of its argument `told`.

    Args:
        command: takes a Reporting as `told`, by name.
    """
    return with_options(command, "told", _reporting)


def _reporting(*, json: Json = False, receipt: Receipt = None) -> Reporting:
    return Reporting(json, receipt)
