"""Enums: the domain's words against the wire's numbers."""

from enum import StrEnum
from typing import Generic, TypeVar

from services.domain.stages import StageTask
from triptych.domain.acceleration import (
    CacheMethod,
    CoefficientsSource,
    MaskPolicy,
    ReusePolicy,
)
from triptych.domain.conditioning_reuse import ConditioningPart
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest
from triptych.domain.family_options import OptionKind
from triptych.domain.model import MediaFormat, Stage
from triptych.domain.parallel import ParallelMethod
from triptych.v1 import acceleration_pb2, capabilities_pb2, generation_pb2, tensor_pb2

E = TypeVar("E", bound=StrEnum)
V = TypeVar("V", bound=int)


class EnumTable(Generic[E, V]):
    """A one-to-one table; the wire's 0 (UNSPECIFIED) is in no table."""

    def __init__(self, pairs: dict[E, V]) -> None:
        self._to_wire = pairs
        self._from_wire = {int(value): each for each, value in pairs.items()}

    def to_wire(self, each: E) -> V:
        """The wire's number."""
        return self._to_wire[each]

    def known_from_wire(self, value: int) -> E | None:
        """The domain's word, or None where there is none."""
        return self._from_wire.get(value)

    def from_wire(self, field: str, value: int) -> E:
        """The domain's word.

        Raises:
            InvalidRequest: the value is unspecified or unknown to this release.
        """
        if value not in self._from_wire:
            allowed = ", ".join(self._to_wire)
            raise InvalidRequest.of(field, f"is unspecified or unknown; allowed are {allowed}")
        return self._from_wire[value]

    def optional_from_wire(self, field: str, value: int) -> E | None:
        """The domain's word, or None for UNSPECIFIED."""
        return None if value == 0 else self.from_wire(field, value)


ELEMENT_TYPES = EnumTable(
    {
        ElementType.FLOAT32: tensor_pb2.ELEMENT_TYPE_FLOAT32,
        ElementType.BFLOAT16: tensor_pb2.ELEMENT_TYPE_BFLOAT16,
        ElementType.FLOAT16: tensor_pb2.ELEMENT_TYPE_FLOAT16,
        ElementType.FLOAT64: tensor_pb2.ELEMENT_TYPE_FLOAT64,
        ElementType.INT64: tensor_pb2.ELEMENT_TYPE_INT64,
        ElementType.INT32: tensor_pb2.ELEMENT_TYPE_INT32,
        ElementType.UINT8: tensor_pb2.ELEMENT_TYPE_UINT8,
        ElementType.BOOL: tensor_pb2.ELEMENT_TYPE_BOOL,
    }
)
STAGES = EnumTable(
    {
        Stage.ENCODER: generation_pb2.STAGE_ENCODER,
        Stage.DENOISER: generation_pb2.STAGE_DENOISER,
        Stage.VAE: generation_pb2.STAGE_VAE,
    }
)
STAGE_TASKS = EnumTable(
    {
        StageTask.ENCODE_PROMPT: generation_pb2.STAGE_TASK_ENCODE_PROMPT,
        StageTask.ENCODE_IMAGES: generation_pb2.STAGE_TASK_ENCODE_IMAGES,
        StageTask.DENOISE: generation_pb2.STAGE_TASK_DENOISE,
        StageTask.DECODE: generation_pb2.STAGE_TASK_DECODE,
    }
)
CONDITIONING_PARTS = EnumTable(
    {
        ConditioningPart.PROMPT: generation_pb2.CONDITIONING_PART_PROMPT,
        ConditioningPart.NEGATIVE_PROMPT: generation_pb2.CONDITIONING_PART_NEGATIVE_PROMPT,
        ConditioningPart.IMAGE: generation_pb2.CONDITIONING_PART_IMAGE,
    }
)
MEDIA_FORMATS = EnumTable(
    {
        MediaFormat.PNG: generation_pb2.MEDIA_FORMAT_PNG,
        MediaFormat.MP4: generation_pb2.MEDIA_FORMAT_MP4,
        MediaFormat.PNG_ARCHIVE: generation_pb2.MEDIA_FORMAT_PNG_ARCHIVE,
    }
)
OPTION_KINDS = EnumTable(
    {
        OptionKind.INTEGER: capabilities_pb2.OPTION_KIND_INTEGER,
        OptionKind.NUMBER: capabilities_pb2.OPTION_KIND_NUMBER,
        OptionKind.SWITCH: capabilities_pb2.OPTION_KIND_SWITCH,
    }
)
CACHE_METHODS = EnumTable(
    {
        CacheMethod.NONE: capabilities_pb2.CACHE_METHOD_NONE,
        CacheMethod.TEA_CACHE: capabilities_pb2.CACHE_METHOD_TEA_CACHE,
        CacheMethod.CACHE_DIT: capabilities_pb2.CACHE_METHOD_CACHE_DIT,
    }
)
COEFFICIENTS_SOURCES = EnumTable(
    {
        CoefficientsSource.PUBLISHED: capabilities_pb2.COEFFICIENTS_SOURCE_PUBLISHED,
        CoefficientsSource.CALIBRATED: capabilities_pb2.COEFFICIENTS_SOURCE_CALIBRATED,
    }
)
MASK_POLICIES = EnumTable(
    {
        MaskPolicy.SLOW: acceleration_pb2.SCM_MASK_POLICY_SLOW,
        MaskPolicy.MEDIUM: acceleration_pb2.SCM_MASK_POLICY_MEDIUM,
        MaskPolicy.FAST: acceleration_pb2.SCM_MASK_POLICY_FAST,
        MaskPolicy.ULTRA: acceleration_pb2.SCM_MASK_POLICY_ULTRA,
    }
)
REUSE_POLICIES = EnumTable(
    {
        ReusePolicy.DYNAMIC: acceleration_pb2.SCM_POLICY_DYNAMIC,
        ReusePolicy.STATIC: acceleration_pb2.SCM_POLICY_STATIC,
    }
)
PARALLEL_METHODS = EnumTable(
    {
        ParallelMethod.ULYSSES: capabilities_pb2.PARALLEL_METHOD_ULYSSES,
        ParallelMethod.RING: capabilities_pb2.PARALLEL_METHOD_RING,
        ParallelMethod.CFG: capabilities_pb2.PARALLEL_METHOD_CFG,
    }
)
