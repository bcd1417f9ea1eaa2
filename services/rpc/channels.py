"""Channels to the stages."""

import grpc

from services.domain.tls import TlsFiles
from services.rpc.encryption import channel_credentials

_OPTIONS = [
    # A restarted stage is found again within a second, not after gRPC's default two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Nor is a new one that has just been given its name, after half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # One that falls silent is given up after 40 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # What gRPC really waits for an answer, a minute by default; the former bounds TCP's own wait.
    ("grpc.http2.ping_timeout_ms", 10_000),
]


def open_channel(target: str, tls: TlsFiles | None = None) -> grpc.aio.Channel:
    """A channel to host:port or unix:/path that reconnects by itself.

    Args:
        target: where the stage is.
        tls: what to show and trust; None for a plain channel.

    Raises:
        ConfigurationError: a certificate or key cannot be read.
    """
    if tls is None:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    return grpc.aio.secure_channel(target, channel_credentials(tls), options=_OPTIONS)
