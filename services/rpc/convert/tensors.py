"""Tensor references on the wire."""

from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ValidationError

from services.domain.tensor_ref import TensorRef
from services.rpc.convert.enums import ELEMENT_TYPES
from triptych.domain.errors import TensorRefused
from triptych.v1 import tensor_pb2


def tensor_ref_to_proto(ref: TensorRef) -> tensor_pb2.TensorRef:
    """Loses nothing: expire times are kept to the microsecond, see tensor_ref_from_proto."""
    return tensor_pb2.TensorRef(
        store=ref.store,
        owner=ref.owner,
        key=ref.key,
        tensors=[
            tensor_pb2.TensorSpec(
                name=spec.name,
                element_type=ELEMENT_TYPES.to_wire(spec.element_type),
                shape=spec.shape,
            )
            for spec in ref.tensors
        ],
        size_bytes=ref.size_bytes,
        checksum_xxh3=ref.checksum_xxh3,
        expire_time=_timestamp(ref.expire_time),
        tenant=ref.tenant,
        request_id=ref.request_id,
        mac=ref.mac,
        inline_blob=ref.inline_blob,
    )


def tensor_ref_from_proto(field: str, message: tensor_pb2.TensorRef) -> TensorRef:
    """Checks the form of every field before anything else looks at it.

    Raises:
        TensorRefused: a field is missing or malformed; the message names it, but not its value.
    """
    try:
        return TensorRef.model_validate(_unchecked(message))
    except ValidationError as error:
        wrong = ", ".join(sorted({str(each["loc"][0]) for each in error.errors()}))
        raise TensorRefused(f"{field}: malformed tensor reference ({wrong})") from error


def _unchecked(message: tensor_pb2.TensorRef) -> dict[str, object]:
    return {
        "store": message.store,
        "owner": message.owner,
        "key": message.key,
        "tensors": [
            {
                "name": spec.name,
                "element_type": ELEMENT_TYPES.known_from_wire(spec.element_type),
                "shape": list(spec.shape),
            }
            for spec in message.tensors
        ],
        "size_bytes": message.size_bytes,
        "checksum_xxh3": message.checksum_xxh3,
        # By hand, since ToMicroseconds refuses what is out of its own range by an error of its own.
        "expire_time": message.expire_time.seconds + message.expire_time.nanos / 1e9,
        "tenant": message.tenant,
        "request_id": message.request_id,
        "mac": message.mac,
        "inline_blob": message.inline_blob,
    }


def _timestamp(seconds: float) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromMicroseconds(round(seconds * 1e6))
    return timestamp
