"""The `triptych` command."""

import sys


def main() -> None:
    """Runs the command; the process ends with one of triptych.cli.exit_codes."""
    from triptych.cli.head_start import head_start

    head_start(sys.argv[1:])
    from triptych.cli.app import app

    app(prog_name="triptych")
