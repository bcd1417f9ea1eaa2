"""Tensors to and from a blob, written into its buffer and read as views of it."""

from collections.abc import Mapping

import torch
import xxhash
from pydantic import ValidationError

from services.domain.tensor_ref import MAX_RANK, MAX_TENSORS, TensorSpec
from services.tensor_store.blob_layout import BlobLayout
from triptych.domain.element_type import ElementType
from triptych.domain.errors import TensorCorrupted, Unsupported

_CHUNK_BYTES = 1 << 20
"""Hashed right after it was copied, while it is still in a core's cache."""


def describe(tensors: Mapping[str, torch.Tensor]) -> tuple[TensorSpec, ...]:
    """Names, types and shapes.

    Raises:
        Unsupported: there are none or too many, or one cannot be stored; says which and why.
    """
    if not 1 <= len(tensors) <= MAX_TENSORS:
        raise Unsupported(f"tensors: {len(tensors)} of them; allowed are 1 to {MAX_TENSORS}")
    return tuple(_spec(name, tensor) for name, tensor in tensors.items())


def encode(tensors: Mapping[str, torch.Tensor], layout: BlobLayout, buffer: memoryview) -> int:
    """Writes the blob.

    Args:
        tensors: any strides, any device.
        layout: of these tensors.
        buffer: writable, `layout.size_bytes` long.

    Returns:
        XXH3-64 of the blob.
    """
    hasher = xxhash.xxh3_64(layout.header)
    buffer[: len(layout.header)] = layout.header
    for name, offset in layout.offsets.items():
        _copy(tensors[name].detach(), buffer, offset, hasher)
    return hasher.intdigest()


def decode(layout: BlobLayout, buffer: memoryview) -> dict[str, torch.Tensor]:
    """Views of the blob's tensors, in the order of the layout's specs.

    Each view keeps the buffer alive.

    Raises:
        TensorCorrupted: the blob does not begin with the header of exactly these tensors.
    """
    if len(buffer) != layout.size_bytes or buffer[: len(layout.header)] != layout.header:
        raise TensorCorrupted("stored tensors: the header is not that of the reference's tensors")
    return {spec.name: _view(spec, buffer, layout.offsets[spec.name]) for spec in layout.specs}


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        raise Unsupported(f"tensor {name!r}: has no dense data; allowed are strided tensors")
    type_name = str(tensor.dtype).removeprefix("torch.")
    if type_name not in set(ElementType):
        allowed = ", ".join(ElementType)
        raise Unsupported(f"tensor {name!r}: element type is {type_name}; allowed are {allowed}")
    try:
        return TensorSpec(name=name, element_type=ElementType(type_name), shape=tuple(tensor.shape))
    except ValidationError as error:
        raise Unsupported(
            f"tensor {name!r} of shape {tuple(tensor.shape)}: names are 1 to 64 of a-z 0-9 _ ."
            f" beginning with a letter, shapes have at most {MAX_RANK} dimensions"
        ) from error


def _copy(source: torch.Tensor, buffer: memoryview, offset: int, hasher: "xxhash.xxh3_64") -> None:
    count = source.numel()
    if count == 0:
        return
    end = offset + count * source.element_size()
    target = torch.frombuffer(buffer, dtype=source.dtype, count=count, offset=offset)
    if not source.is_contiguous() or source.device.type != "cpu":
        target.view(source.shape).copy_(source)
        hasher.update(buffer[offset:end])
        return
    flat = source.view(-1)
    step = _CHUNK_BYTES // source.element_size()
    for first in range(0, count, step):
        piece = target[first : first + step]
        piece.copy_(flat[first : first + step])
        start = offset + first * source.element_size()
        hasher.update(buffer[start : start + piece.nbytes])


def _view(spec: TensorSpec, buffer: memoryview, offset: int) -> torch.Tensor:
    dtype: torch.dtype = getattr(torch, spec.element_type.value)
    if spec.size_bytes == 0:
        return torch.empty(spec.shape, dtype=dtype)
    count = spec.size_bytes // spec.element_type.size_bytes
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=offset).view(spec.shape)
