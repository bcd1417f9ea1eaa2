"""Who may make a call."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from services.rpc.unreadable import read_request
from triptych.domain.call_seal import ADMINISTRATIVE_METHODS, SIGNATURE_METADATA, CallSeal

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was received, and not yet answered.

    Attributes:
        method: as on the wire, "/package.Service/Method".
        request: the message, if it could be read; of a stream, the stream.
    """

    method: str
    metadata: Metadata
    request: Any


Guard = Callable[[Call], str | None]
"""Raises a TriptychError to refuse a call; else tells whose it is, where a tenant is known."""


def let_pass(_: Call) -> None:
    """The guard of a server that anybody may call."""


def administrators_alone(seal: CallSeal) -> Guard:
    """The guard of a stage: whose administrative calls take the cluster's signature.

    Args:
        seal: the cluster's.
    """

    def check(call: Call) -> str | None:
        if call.method in ADMINISTRATIVE_METHODS:
            arguments = read_request(call.request).SerializeToString(deterministic=True)
            seal.check(call.method, arguments, signature_of(call.metadata))
        tenant = getattr(call.request, "tenant", None)
        return tenant if isinstance(tenant, str) else None

    return check


def signature_of(metadata: Metadata) -> str:
    """What came as the signature; empty if nothing did."""
    return next((str(value) for name, value in metadata if name == SIGNATURE_METADATA), "")
