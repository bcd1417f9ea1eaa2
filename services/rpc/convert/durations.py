"""Seconds against google.protobuf.Duration."""

from google.protobuf.duration_pb2 import Duration


def duration_to_proto(seconds: float) -> Duration:
    """Rounded to nanoseconds."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def seconds_from_proto(message: Duration) -> float:
    """Seconds."""
    return message.seconds + message.nanos / 1e9
