"""Channels to the stages."""

import grpc

_OPTIONS = [
    # A restarted stage is found again within a second, not after gRPC's default two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


def open_channel(target: str) -> grpc.aio.Channel:
    """A channel to host:port or unix:/path that reconnects by itself."""
    return grpc.aio.insecure_channel(target, options=_OPTIONS)
