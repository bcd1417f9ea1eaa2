"""What is read from failures that no cluster sent properly."""

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

from triptych.errors import InternalError, error_from
from triptych.status import Failure, failure_of


def rpc_error(
    code: grpc.StatusCode, details: str | None, rich_status: bytes | None = None
) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata()
    if rich_status is not None:
        trailing.add("grpc-status-details-bin", rich_status)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=details)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (grpc.StatusCode.UNAVAILABLE, "the cluster at x cannot be reached"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the cluster at x was done"),
        (grpc.StatusCode.CANCELLED, "the call to the cluster at x was cancelled"),
        (grpc.StatusCode.UNIMPLEMENTED, "the cluster at x does not offer this method"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "the cluster at x failed with RESOURCE_EXHAUSTED"),
    ],
)
def test_untyped_failure_gets_a_sentence_that_names_the_peer(
    code: grpc.StatusCode, said: str
) -> None:
    failure = failure_of(rpc_error(code, "a detail"), "the cluster at x")
    assert failure.status == failure.reason == code.name
    assert failure.message.startswith(said)


def test_details_that_cannot_be_decoded_are_as_good_as_none() -> None:
    failure = failure_of(rpc_error(grpc.StatusCode.INTERNAL, "oops", b"\xff\xff\xff"))
    assert failure.message == "the server failed with INTERNAL: oops"
    assert failure.foreign


def test_details_of_another_system_are_not_taken_for_ours() -> None:
    packed = Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="QUOTA", domain="proxy.example.com"))
    status = status_pb2.Status(code=13, message="foreign", details=[packed])
    failure = failure_of(rpc_error(grpc.StatusCode.INTERNAL, "oops", status.SerializeToString()))
    assert failure.reason == "INTERNAL"
    assert failure.foreign


def test_failure_without_details_is_a_whole_sentence() -> None:
    failure = failure_of(rpc_error(grpc.StatusCode.UNAVAILABLE, None))
    assert not failure.message.endswith((":", " "))


def test_status_without_an_error_of_its_own_is_an_internal_error() -> None:
    error = error_from(Failure("PERMISSION_DENIED", "TENSOR_REFUSED", "no"))
    assert type(error) is InternalError
    assert error.failure.status == "PERMISSION_DENIED"
