"""The commands, put together."""

import typer

from triptych import __version__
from triptych.cli.calibrate import calibrate
from triptych.cli.download import download
from triptych.cli.drain import drain
from triptych.cli.exit_codes import EPILOG
from triptych.cli.generate import generate
from triptych.cli.health import health
from triptych.cli.jobs import jobs
from triptych.cli.manifest import manifest
from triptych.cli.models import models
from triptych.cli.new_key import new_key
from triptych.cli.replay import replay
from triptych.cli.tune import tune
from triptych.cli.up import up

app = typer.Typer(
    help="Diffusion models served by a cluster of an encoder, a denoiser and a VAE.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.command(epilog=EPILOG)(generate)
app.add_typer(jobs)
app.command(epilog=EPILOG)(download)
app.command(epilog=EPILOG)(replay)
app.command(epilog=EPILOG)(up)
app.command(epilog=EPILOG)(models)
app.command(epilog=EPILOG)(health)
app.command(epilog=EPILOG)(drain)
app.command(epilog=EPILOG)(new_key)
app.command(epilog=EPILOG)(manifest)
app.command(epilog=EPILOG)(calibrate)
app.command(epilog=EPILOG)(tune)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"triptych {__version__}")
