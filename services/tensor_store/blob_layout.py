"""Where each tensor lies inside a blob. Knows no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from services.domain.tensor_ref import TensorSpec
from triptych.domain.element_type import ElementType

DATA_ALIGNMENT_BYTES = 64
"""A cache line, and the widest vector register: what torch itself aligns tensors to."""

_SAFETENSORS_NAMES = {
    ElementType.FLOAT32: "F32",
    ElementType.BFLOAT16: "BF16",
    ElementType.FLOAT16: "F16",
    ElementType.FLOAT64: "F64",
    ElementType.INT64: "I64",
    ElementType.INT32: "I32",
    ElementType.UINT8: "U8",
    ElementType.BOOL: "BOOL",
}


@dataclass(frozen=True, slots=True)
class BlobLayout:
    """The one way to lay out given tensors as a safetensors file.

    The header follows from names, types and shapes alone. A reader therefore never interprets the
    header it finds: it compares it, byte for byte, with the one that belongs to the signed
    reference. Overlaps, holes, foreign types and offsets out of range are all just other bytes.

    Attributes:
        specs: in the order they were given.
        header: length prefix, JSON and padding.
        offsets: of each tensor's data, in bytes from the beginning of the blob.
        size_bytes: of the blob, header included.
    """

    specs: tuple[TensorSpec, ...]
    header: bytes
    offsets: Mapping[str, int]
    size_bytes: int

    @classmethod
    def of(cls, specs: Sequence[TensorSpec]) -> Self:
        """Lays out tensors without holes, the widest elements first, so that all are aligned."""
        entries: dict[str, object] = {}
        starts: dict[str, int] = {}
        end = 0
        for spec in sorted(specs, key=lambda spec: (-spec.element_type.size_bytes, spec.name)):
            starts[spec.name], end = end, end + spec.size_bytes
            entries[spec.name] = {
                "dtype": _SAFETENSORS_NAMES[spec.element_type],
                "shape": spec.shape,
                "data_offsets": (starts[spec.name], end),
            }
        header = _header(entries)
        offsets = {name: len(header) + start for name, start in starts.items()}
        return cls(tuple(specs), header, offsets, len(header) + end)


def _header(entries: Mapping[str, object]) -> bytes:
    text = json.dumps(entries, separators=(",", ":")).encode()
    # Spaces after the JSON are part of the format.
    padding = -(8 + len(text)) % DATA_ALIGNMENT_BYTES
    text += b" " * padding
    return len(text).to_bytes(8, "little") + text
