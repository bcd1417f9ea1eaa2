"""`triptych new-key`."""

import hashlib
import json
import secrets
from typing import Annotated

import typer


def new_key(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose key it will be.")],
) -> None:
    """Make a key for a tenant: the key once, on stderr, and what goes into the access file."""
    key = secrets.token_urlsafe(32)
    entry = {"name": tenant, "key_sha256": [hashlib.sha256(key.encode()).hexdigest()]}
    typer.echo(f"{key}", err=True)
    typer.echo(json.dumps({"tenants": [entry]}, indent=2))
