from collections.abc import Iterable
from typing import Any

import pytest
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from services.domain.stages import StageTask
from services.rpc.convert import enums
from triptych.domain.acceleration import CacheMethod, CoefficientsSource, MaskPolicy, ReusePolicy
from triptych.domain.conditioning_reuse import ConditioningPart
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest
from triptych.domain.family_options import OptionKind
from triptych.domain.model import MediaFormat, Stage
from triptych.domain.parallel import ParallelMethod
from triptych.v1 import acceleration_pb2, capabilities_pb2, generation_pb2, tensor_pb2

PAIRS = [
    (enums.ELEMENT_TYPES, ElementType, tensor_pb2.ElementType),
    (enums.STAGES, Stage, generation_pb2.Stage),
    (enums.STAGE_TASKS, StageTask, generation_pb2.StageTask),
    (enums.CONDITIONING_PARTS, ConditioningPart, generation_pb2.ConditioningPart),
    (enums.MEDIA_FORMATS, MediaFormat, generation_pb2.MediaFormat),
    (enums.OPTION_KINDS, OptionKind, capabilities_pb2.OptionKind),
    (enums.CACHE_METHODS, CacheMethod, capabilities_pb2.CacheMethod),
    (enums.COEFFICIENTS_SOURCES, CoefficientsSource, capabilities_pb2.CoefficientsSource),
    (enums.MASK_POLICIES, MaskPolicy, acceleration_pb2.ScmMaskPolicy),
    (enums.REUSE_POLICIES, ReusePolicy, acceleration_pb2.ScmPolicy),
    (enums.PARALLEL_METHODS, ParallelMethod, capabilities_pb2.ParallelMethod),
]
each_pair = pytest.mark.parametrize(("table", "words", "wire"), PAIRS)


def _numbers(wire: EnumTypeWrapper) -> set[int]:
    return set(wire.values()) - {0}


def test_every_table_of_the_module_is_tested() -> None:
    tables = [each for each in vars(enums).values() if isinstance(each, enums.EnumTable)]
    assert {id(each) for each in tables} == {id(table) for table, _, _ in PAIRS}


@each_pair
def test_every_word_and_every_number_has_its_counterpart(
    table: Any, words: Iterable[Any], wire: EnumTypeWrapper
) -> None:
    assert {table.to_wire(each) for each in words} == _numbers(wire)
    assert {table.from_wire("field", each) for each in _numbers(wire)} == set(words)


@each_pair
def test_counterparts_have_the_same_name(
    table: Any, words: Iterable[Any], wire: EnumTypeWrapper
) -> None:
    for each in words:
        assert wire.Name(table.to_wire(each)).endswith(f"_{each.name}")


@each_pair
@pytest.mark.parametrize("number", [0, 99, -1])
def test_an_unspecified_or_unknown_number_is_refused_with_the_field(
    table: Any, words: Iterable[Any], wire: EnumTypeWrapper, number: int
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        table.from_wire("some.field", number)
    assert [each.field for each in caught.value.violations] == ["some.field"]
    for word in words:
        assert word in str(caught.value)


@each_pair
def test_where_a_value_is_optional_unspecified_means_none(
    table: Any, words: Iterable[Any], wire: EnumTypeWrapper
) -> None:
    assert table.optional_from_wire("field", 0) is None
    assert table.optional_from_wire("field", 1) in set(words)
    with pytest.raises(InvalidRequest):
        table.optional_from_wire("field", 99)
