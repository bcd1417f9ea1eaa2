"""What a failed RPC says about itself, as plain values, for the client and the services alike."""

from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from triptych.domain.errors import FieldViolation
from triptych.domain.failure import Failure
from triptych.errors import TriptychError, error_from

ERROR_DOMAIN = "triptych"
"""The `domain` of every google.rpc.ErrorInfo that Triptych sends."""

M = TypeVar("M", bound=Message)


def call_error(error: grpc.RpcError, target: str) -> TriptychError:
    """What a client raises when a call to the cluster at `target` failed."""
    raised = error_from(failure_of(error, f"the cluster at {target}"))
    raised.__cause__ = error
    return raised


def failure_of(error: grpc.RpcError, peer: str = "the server") -> Failure:
    """Reads a failure that either flavour of gRPC raised.

    Args:
        error: what a stub of `grpc` or `grpc.aio` raised.
        peer: who was called; named where the failure did not come from Triptych itself.
    """
    status = error.code().name
    try:
        described = _described(error, status)
    except DecodeError:
        # Not written by Triptych: the plain code and details are all there is to read.
        described = None
    if described is not None:
        return described
    said = error.details() or ""
    return Failure(status, status, _sentence(status, said, peer), foreign=True)


def _described(error: grpc.RpcError, status: str) -> Failure | None:
    metadata = cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ())
    for key, value in metadata:
        if key != "grpc-status-details-bin" or not isinstance(value, bytes):
            continue
        details = status_pb2.Status.FromString(value)
        for info in _unpacked(details, error_details_pb2.ErrorInfo):
            if info.domain == ERROR_DOMAIN:
                return Failure(
                    status=status,
                    reason=info.reason,
                    message=details.message,
                    violations=_violations(details),
                    retry_after_seconds=_retry_after_seconds(details),
                )
    return None


def _violations(details: status_pb2.Status) -> tuple[FieldViolation, ...]:
    return tuple(
        FieldViolation(violation.field, violation.description)
        for bad_request in _unpacked(details, error_details_pb2.BadRequest)
        for violation in bad_request.field_violations
    )


def _retry_after_seconds(details: status_pb2.Status) -> float | None:
    for info in _unpacked(details, error_details_pb2.RetryInfo):
        return float(info.retry_delay.ToTimedelta().total_seconds())
    return None


def _unpacked(details: status_pb2.Status, kind: type[M]) -> Iterator[M]:
    for packed in details.details:
        if packed.Is(kind.DESCRIPTOR):
            message = kind()
            packed.Unpack(message)
            yield message


def _sentence(status: str, details: str, peer: str) -> str:
    said = f": {details}" if details else ""
    match status:
        case "UNAVAILABLE":
            return f"{peer} cannot be reached; check that it runs and the address is right{said}"
        case "DEADLINE_EXCEEDED":
            return f"the deadline passed before {peer} was done; allow more time or ask for less"
        case "CANCELLED":
            return f"the call to {peer} was cancelled"
        case "UNIMPLEMENTED":
            return f"{peer} does not offer this method; check that it is a Triptych server{said}"
        case _:
            return f"{peer} failed with {status}{said}"
