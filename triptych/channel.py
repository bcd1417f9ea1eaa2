"""How a client connects: one place for what both flavours of gRPC are told."""

import ipaddress
from pathlib import Path
from typing import Final

import grpc

DEFAULT_TARGET: Final = "127.0.0.1:7843"
DEFAULT_TIMEOUT_SECONDS: Final = 600.0

_OPTIONS: Final = (
    # A dead peer is noticed within 50 s of silence while a request runs; none is looked for
    # without one.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # What gRPC really waits for an answer, a minute by default; the former bounds TCP's own wait.
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # A gateway that was replaced is reached again within seconds, rather than minutes.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)
_NO_PROXY: Final = (("grpc.enable_http_proxy", 0),)


def call_metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """What goes with every call.

    Raises:
        ValueError: the key is nothing a header can carry.
    """
    if api_key is None:
        return ()
    if not api_key or not api_key.isascii() or not api_key.isprintable():
        raise ValueError("api_key: is empty or has characters that are not printable ASCII")
    return (("authorization", f"Bearer {api_key}"),)


def tls_credentials(
    *,
    ca_file: str | Path | None = None,
    cert_file: str | Path | None = None,
    key_file: str | Path | None = None,
) -> grpc.ChannelCredentials:
    """Credentials for an encrypted connection.

    Args:
        ca_file: PEM certificates that the cluster's must be signed by; the system's by default.
        cert_file: PEM certificate chain to show, where the cluster asks for one.
        key_file: its PEM private key.

    Raises:
        OSError: a file cannot be read.
        ValueError: cert_file and key_file do not come together.
    """
    if (cert_file is None) is not (key_file is None):
        raise ValueError("cert_file and key_file go together; one is missing")
    trusted, key, certificate = (
        None if each is None else Path(each).read_bytes() for each in (ca_file, key_file, cert_file)
    )
    return grpc.ssl_channel_credentials(trusted, key, certificate)


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
