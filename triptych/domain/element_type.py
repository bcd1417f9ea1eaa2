"""The types a tensor's elements may have."""

from triptych.domain.open_enum import OpenEnum


class ElementType(OpenEnum):
    """Values are torch's own names, so that `getattr(torch, value)` is the dtype."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT64 = "float64"
    INT64 = "int64"
    INT32 = "int32"
    UINT8 = "uint8"
    BOOL = "bool"

    @property
    def size_bytes(self) -> int:
        """Bytes of one element."""
        return _SIZES[self]


_SIZES = {
    ElementType.FLOAT32: 4,
    ElementType.BFLOAT16: 2,
    ElementType.FLOAT16: 2,
    ElementType.FLOAT64: 8,
    ElementType.INT64: 8,
    ElementType.INT32: 4,
    ElementType.UINT8: 1,
    ElementType.BOOL: 1,
}
