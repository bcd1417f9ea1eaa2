"""Handles to stored tensors, and the seal that proves the cluster made them."""

import hashlib
import hmac
import math
import re
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
)

from triptych.domain.element_type import ElementType
from triptych.domain.errors import TensorRefused

IDENTIFIER = re.compile(r"[0-9a-f]{32}")
TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
Identifier = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""A random 128-bit name; the only kind that ever becomes part of a path or a key."""

MAX_RANK = 8
MAX_TENSORS = 64
MAX_INLINE_BYTES = 1024 * 1024
INLINE = "inline:"
"""The store of tensors that travel inside their reference."""


def _to_microseconds(seconds: float) -> float:
    # The wire's Timestamp is read back to the microsecond; the signature needs the same number.
    return round(seconds * 1e6) / 1e6


class TensorSpec(BaseModel):
    """Name, type and shape of one tensor."""

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]{0,63}$")]
    element_type: ElementType
    shape: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=MAX_RANK)]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * self.element_type.size_bytes


class TensorRef(BaseModel):
    """A handle to a set of named tensors in a store; see protos/triptych/v1/tensor.proto.

    Attributes:
        store: identity of the store, "<scheme>:<id>".
        owner: the process instance that wrote the bytes.
        size_bytes: of the stored blob, header included.
        checksum_xxh3: XXH3-64 of the stored blob.
        expire_time: seconds since the epoch.
        mac: HMAC-SHA256 over all other fields.
        inline_blob: the blob itself, if it travels inside the handle.
    """

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    store: Annotated[str, StringConstraints(pattern=r"^[a-z]+:[0-9a-f]{0,32}$")]
    owner: Identifier
    key: Identifier
    tensors: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=MAX_TENSORS)]
    size_bytes: Annotated[int, Field(ge=0)]
    checksum_xxh3: Annotated[int, Field(ge=0, lt=2**64)]
    expire_time: Annotated[
        float, Field(gt=0, lt=1e11, allow_inf_nan=False), AfterValidator(_to_microseconds)
    ]
    tenant: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    request_id: Identifier
    mac: Annotated[bytes, Field(max_length=32)] = b""
    inline_blob: Annotated[bytes, Field(max_length=MAX_INLINE_BYTES)] = b""


class Seal:
    """Signs references and refuses those it did not sign; signs other things for their readers."""

    def __init__(self, secret: SecretStr) -> None:
        self._key = secret.get_secret_value().encode()

    def sign(self, ref: TensorRef) -> TensorRef:
        """The same reference with its MAC."""
        return ref.model_copy(update={"mac": self._mac(ref)})

    def check(self, ref: TensorRef) -> None:
        """Compares in constant time.

        Raises:
            TensorRefused: the MAC is not this cluster's.
        """
        if not hmac.compare_digest(self._mac(ref), ref.mac):
            raise TensorRefused("tensor reference: the signature is not this cluster's")

    def tag(self, *parts: bytes | memoryview) -> bytes:
        """HMAC-SHA256 of parts, 32 bytes; the first says what for. No reference's MAC is one."""
        signed = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            # What begins with a length is no JSON object, and no other parts.
            signed.update(b"%d:" % len(part))
            signed.update(part)
        return signed.digest()

    def _mac(self, ref: TensorRef) -> bytes:
        # JSON of named fields in declaration order: unambiguous; a new field is covered at once.
        signed = ref.model_dump_json(exclude={"mac"})
        return hmac.new(self._key, signed.encode(), hashlib.sha256).digest()
