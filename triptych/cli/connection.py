"""How the command line reaches a cluster that asks for a key or is encrypted."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import grpc
import typer

from triptych.channel import tls_credentials
from triptych.cli.failure import reported_failures
from triptych.cli.option_group import with_options

_CONNECTION = "How to connect to a running cluster"

ApiKeyFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="TRIPTYCH_API_KEY_FILE",
        help="File with the key to show; never the key itself, since command lines can be seen.",
        rich_help_panel=_CONNECTION,
    ),
]
Tls = Annotated[
    bool,
    typer.Option("--tls", help="Encrypt the connection.", rich_help_panel=_CONNECTION),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="PEM certificates that the cluster's must be signed by, instead of the system's;"
        " means --tls.",
        rich_help_panel=_CONNECTION,
    ),
]
CertFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="PEM certificate chain to show to the cluster; means --tls.",
        rich_help_panel=_CONNECTION,
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Its PEM private key.", rich_help_panel=_CONNECTION),
]


@dataclass(frozen=True, slots=True)
class Connection:
    """What a client is made with, beside the target."""

    credentials: grpc.ChannelCredentials | None = None
    api_key: str | None = None


def connecting(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options above in the place of its argument `connected`.

    Args:
        command: takes a Connection as `connected`, by name.
    """
    return with_options(command, "connected", _connection)


def _connection(
    *,
    api_key_file: ApiKeyFile = None,
    tls: Tls = False,
    ca_file: CaFile = None,
    cert_file: CertFile = None,
    key_file: KeyFile = None,
) -> Connection:
    credentials = None
    with reported_failures():
        if tls or ca_file or cert_file or key_file:
            credentials = _credentials(ca_file, cert_file, key_file)
        api_key = None if api_key_file is None else _key(api_key_file)
    return Connection(credentials, api_key)


def _credentials(
    ca_file: Path | None, cert_file: Path | None, key_file: Path | None
) -> grpc.ChannelCredentials:
    try:
        return tls_credentials(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cert-file") from error


def _key(path: Path) -> str:
    key = path.read_text(errors="replace").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise typer.BadParameter(f"{path} holds no key", param_hint="--api-key-file")
    return key
