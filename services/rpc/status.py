"""Errors on the wire: a domain error becomes a rich gRPC status once, and comes back once."""

from collections.abc import Sequence

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from triptych.domain.errors import (
    DeadlineExceeded,
    FieldViolation,
    RemoteFailure,
    StageUnavailable,
    TriptychError,
)
from triptych.domain.failure import Failure
from triptych.status import ERROR_DOMAIN, failure_of

# Statuses travel in the trailing metadata, of which gRPC accepts 8 KiB; what a client sent must not
# make the answer to it undeliverable. The message goes there twice: once with three characters for
# each byte that is not ASCII, and once with the violations, with four characters for three bytes.
_MAX_CHARACTERS = 400
_MAX_BYTES = 800
_MAX_FIELD_BYTES = 100
_MAX_VIOLATIONS_BYTES = 2400


def status_of(error: TriptychError) -> status_pb2.Status:
    """The status with ErrorInfo, and BadRequest and RetryInfo where the error has them."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN)]
    if error.violations:
        details.append(_bad_request(error.violations))
    if error.retry_after_seconds is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromNanoseconds(round(error.retry_after_seconds * 1e9))
        details.append(info)
    return status_pb2.Status(
        code=code_pb2.Code.Value(error.status),
        message=_bounded(str(error)),
        details=map(_packed, details),
    )


async def abort(context: grpc.aio.ServicerContext[object, object], error: TriptychError) -> None:
    """Ends the call with the error's status; raises, as gRPC's own abort does."""
    await context.abort_with_status(rpc_status.to_status(status_of(error)))


def error_of(rpc_error: grpc.aio.AioRpcError, stage: str, target: str) -> TriptychError:
    """The domain error behind a failed call to a stage.

    Args:
        rpc_error: what the call raised.
        stage: the stage that was called, for the message.
        target: its address, for the message.
    """
    failure = failure_of(rpc_error, f"the {stage} at {target}")
    if not failure.foreign:
        return remote_failure(failure)
    # Without our ErrorInfo the answer is gRPC's own: the process is gone, or the time is up.
    if rpc_error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"the deadline passed while the {stage} was at work")
    if rpc_error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return StageUnavailable(f"the {stage} at {target} is down; repeat the request later")
    return RemoteFailure(failure.message, status=failure.status, reason="STAGE_FAILED")


def remote_failure(failure: Failure) -> RemoteFailure:
    """The error that a failure is told as once more."""
    return RemoteFailure(
        failure.message,
        status=failure.status,
        reason=failure.reason,
        violations=failure.violations,
        retry_after_seconds=failure.retry_after_seconds,
    )


def _bad_request(violations: Sequence[FieldViolation]) -> error_details_pb2.BadRequest:
    """As many of them as can be told, and how many there are beside."""
    told = error_details_pb2.BadRequest()
    for number, each in enumerate(violations):
        told.field_violations.add(
            field=_bounded(each.field, _MAX_FIELD_BYTES), description=_bounded(each.description)
        )
        if told.ByteSize() > _MAX_VIOLATIONS_BYTES:
            del told.field_violations[-1]
            left = len(violations) - number
            told.field_violations.add(field="…", description=f"{left} more are not allowed")
            break
    return told


def _bounded(text: str, most: int = _MAX_BYTES) -> str:
    if len(text) <= _MAX_CHARACTERS and len(text.encode()) <= most:
        return text
    return text[: _MAX_CHARACTERS - 1].encode()[:most].decode(errors="ignore") + "…"


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
