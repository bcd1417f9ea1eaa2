"""`triptych new-key`."""

import hashlib
import json
import re
import secrets
from typing import Annotated, Final

import typer

_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


def new_key(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose key it will be.")],
) -> None:
    """Make a key for a tenant: the key once, on stderr, and what goes into the access file."""
    if not _TENANT.fullmatch(tenant):
        raise typer.BadParameter(
            f"is {tenant!r}; allowed are 1 to 64 of the characters A-Z a-z 0-9 _ -",
            param_hint="TENANT",
        )
    key = secrets.token_urlsafe(32)
    entry = {"name": tenant, "key_sha256": [hashlib.sha256(key.encode()).hexdigest()]}
    typer.echo(f"{key}", err=True)
    typer.echo(json.dumps({"tenants": [entry]}, indent=2))
