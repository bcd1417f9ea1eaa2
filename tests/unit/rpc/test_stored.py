import pytest

from services.artifacts.artifact import ArtifactKey, ArtifactKind
from services.domain.checkpoint import Checkpoint, CheckpointPart
from services.domain.job_event import ArtifactChunk
from services.domain.stages import Denoised, Encoded, EncodedImage
from services.rpc.stored import (
    DecodedArtifact,
    Output,
    StoredRequest,
    event_bytes,
    event_message,
    failure_bytes,
    failure_of,
    output_bytes,
    output_of,
    request_bytes,
    request_of,
    result_bytes,
    result_of,
)
from tests.unit.domain.examples import ARTIFACT, PARAMETERS, REQUEST_ID, TENSOR_REF, timing
from triptych.codec.tables import JOB_EVENTS
from triptych.domain.events import CheckpointSaved, JobCancelled
from triptych.domain.failure import Failure
from triptych.domain.generation_result import GenerationResult
from triptych.domain.model import Stage
from triptych.domain.parallel import ParallelDegrees
from triptych.v1 import job_pb2, stored_job_pb2

PICTURE = ArtifactKey("ada", ArtifactKind.UPLOAD, "picture")
OUTPUTS = (
    Encoded(TENSOR_REF, timing(Stage.ENCODER), "a longer prompt"),
    EncodedImage(TENSOR_REF, timing(Stage.VAE)),
    Checkpoint(
        7,
        (CheckpointPart(0, TENSOR_REF), CheckpointPart(2, TENSOR_REF)),
        ParallelDegrees(cfg=3),
        0.5,
    ),
    Denoised(TENSOR_REF, 1, timing(Stage.DENOISER)),
    DecodedArtifact(ARTIFACT, timing(Stage.VAE)),
)


def test_a_request_is_read_as_it_was_stored() -> None:
    request = StoredRequest(PARAMETERS, (PICTURE,), "00-trace-span-01", bound=True)
    assert request_of(request_bytes(request)) == request


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: type(output).__name__)
def test_an_output_is_read_as_what_it_is(output: Output) -> None:
    assert output_of(output_bytes(output)) == output


def test_an_output_of_a_later_release_is_none() -> None:
    assert output_of(stored_job_pb2.StoredOutput().SerializeToString()) is None


def test_an_event_is_given_its_number_its_time_and_its_job_when_it_is_read() -> None:
    stored = event_bytes(CheckpointSaved(7))
    assert job_pb2.JobEvent.FromString(stored).ListFields()[0][0].name == "checkpoint_saved"
    message = event_message(REQUEST_ID, 3, 1_700_000_000.125, stored)
    assert (message.job_id, message.sequence) == (REQUEST_ID, 3)
    assert message.event_time.ToMicroseconds() == 1_700_000_000_125_000
    assert JOB_EVENTS.read(message) == CheckpointSaved(7)


def test_an_artifacts_bytes_are_no_event() -> None:
    with pytest.raises(TypeError, match="kept in the artifact store"):
        event_bytes(ArtifactChunk(None, 0, b"data"))


def test_the_end_of_a_job_is_an_event_whatever_it_is() -> None:
    for end in (JobCancelled(4), Failure("INTERNAL", "BROKEN", "it broke", retryable=True)):
        assert JOB_EVENTS.read(event_message(REQUEST_ID, 1, 0.0, event_bytes(end))) == end


def test_outcomes_are_read_as_they_were_stored() -> None:
    result = GenerationResult(
        parameters=PARAMETERS,
        artifacts=(ARTIFACT,),
        stage_timings=(timing(Stage.VAE),),
        latents_checksum_xxh3=1,
        total_seconds=2.5,
    )
    assert result_of(result_bytes(result)) == result
    failure = Failure("UNAVAILABLE", "RANKS_LOST", "lost", retryable=True)
    assert failure_of(failure_bytes(failure)) == failure
