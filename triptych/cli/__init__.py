"""The `triptych` command."""


def main() -> None:
    """Runs the command; the process ends with one of triptych.cli.exit_codes."""
    from triptych.cli.app import app

    app(prog_name="triptych")
