"""How a client connects: one place for what both flavours of gRPC are told."""

import ipaddress
from typing import Final

DEFAULT_TARGET: Final = "127.0.0.1:7843"
DEFAULT_TIMEOUT_SECONDS: Final = 600.0

_OPTIONS: Final = (
    # A dead peer is noticed within 40 s of silence while a request runs; idle channels stay quiet.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
)
_NO_PROXY: Final = (("grpc.enable_http_proxy", 0),)


def channel_options(target: str) -> tuple[tuple[str, int], ...]:
    """What a channel to `target` is made with; this machine is never reached through a proxy."""
    return _OPTIONS + _NO_PROXY if _is_local(target) else _OPTIONS


def _is_local(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
