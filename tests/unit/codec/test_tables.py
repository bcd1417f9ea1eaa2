"""Every noun against its message, whatever they are."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import services.rpc.stored
import services.rpc.tables
from tests.unit.codec.strategies import nouns_of
from triptych.codec import table as codec
from triptych.codec.table import Table
from triptych.codec.tables import MODELS, PARAMETERS, TIMINGS
from triptych.codec.values import Words
from triptych.domain.errors import InvalidRequest
from triptych.domain.open_enum import OpenEnum
from triptych.v1 import capabilities_pb2, generation_pb2, job_pb2

assert services.rpc.tables, services.rpc.stored
# A TensorSpec is made by whoever reads the reference that has it.
TABLES = [table for table in codec._TABLES.values() if table._build is not dict]
WHOLE = [table for table in TABLES if isinstance(table._build, type)]


def _name(table: Table[Any, Any]) -> str:
    return f"{table.noun.__name__}-{table.message.DESCRIPTOR.name}"


@pytest.mark.parametrize("table", WHOLE, ids=_name)
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_field_of_every_noun_survives_the_wire(
    table: Table[Any, Any], data: st.DataObject
) -> None:
    noun = data.draw(nouns_of(table))
    sent = table.message.FromString(table.write(noun).SerializeToString())
    for strict in (True, False):
        assert table.read(sent, strict=strict) == noun


def test_there_is_a_table_for_every_message_that_is_more_than_an_envelope() -> None:
    carried = {table.message.DESCRIPTOR.full_name for table in TABLES}
    assert len(carried) >= 35


@dataclass(frozen=True)
class Shorter:
    rows: int


@dataclass(frozen=True)
class Longer:
    step: int
    data: bytes
    width: int
    height: int
    depth: int


def test_a_field_that_only_the_message_has_is_found_when_it_is_imported() -> None:
    with pytest.raises(
        TypeError, match="nothing is said of data, height, image_index, step, width"
    ):
        Table(Shorter, job_pb2.Preview, apart={"rows": "not told"})


def test_a_field_that_only_the_noun_has_is_found_when_it_is_imported() -> None:
    with pytest.raises(TypeError, match=r"nothing for Longer\.depth"):
        Table(Longer, job_pb2.Preview)


def test_an_exception_for_a_field_that_is_not_there_is_found_when_it_is_imported() -> None:
    with pytest.raises(TypeError, match="Longer has no colour"):
        Table(Longer, job_pb2.Preview, apart={"depth": "not told", "colour": "not told"})


class FewerStages(OpenEnum):
    ENCODER = "encoder"


class OtherStages(OpenEnum):
    PRINTER = "printer"


def test_a_word_or_a_number_without_its_counterpart_is_found_when_it_is_imported() -> None:
    stages = generation_pb2.Stage.DESCRIPTOR
    with pytest.raises(TypeError, match="words and numbers differ"):
        Words.of(stages, FewerStages)
    with pytest.raises(TypeError, match="has no printer"):
        Words.of(stages, OtherStages)


@pytest.mark.parametrize("number", [0, 99])
def test_a_number_without_a_word_is_refused_with_the_field_and_what_is_allowed(number: int) -> None:
    message = generation_pb2.StageTiming(task=generation_pb2.STAGE_TASK_DENOISE)
    message.stage = number  # type: ignore[assignment]
    with pytest.raises(InvalidRequest) as caught:
        TIMINGS.read(message, "timing.")
    assert str(caught.value) == (
        "timing.stage: is unspecified or unknown; allowed are encoder, denoiser, vae"
    )


@pytest.mark.parametrize(("number", "word"), [(0, "unspecified"), (99, "unknown_99")])
def test_a_number_of_a_newer_cluster_breaks_no_client(number: int, word: str) -> None:
    message = generation_pb2.StageTiming(task=generation_pb2.STAGE_TASK_DENOISE)
    message.stage = number  # type: ignore[assignment]
    assert TIMINGS.read(message, strict=False).stage == word


def test_all_that_is_missing_is_reported_together() -> None:
    with pytest.raises(InvalidRequest) as caught:
        PARAMETERS.read(generation_pb2.GenerationParameters())
    missing = {violation.field for violation in caught.value.violations}
    needed = {"width", "height", "steps", "guidance_scale", "seed", "dtype", "media_format"}
    assert missing == needed


def test_a_refusal_inside_a_message_names_the_way_there() -> None:
    message = capabilities_pb2.Model(name="painter", dtype="ELEMENT_TYPE_FLOAT32")
    message.capabilities.options.add(field="video.num_frames")
    with pytest.raises(InvalidRequest) as caught:
        MODELS.read(message)
    assert [violation.field for violation in caught.value.violations] == [
        "capabilities.options[0].kind"
    ]
