"""A job's events as its client gets them."""

from google.protobuf.timestamp_pb2 import Timestamp

from services.domain.job_event import ArtifactChunk, JobEvent
from services.rpc.tables import ARTIFACT_CHUNKS
from triptych.codec.tables import JOB_EVENTS
from triptych.v1 import generation_service_pb2


class EventWriter:
    """Numbers and dates the events of one job, from 1, without gaps."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._sequence = 0

    def write(self, event: JobEvent) -> generation_service_pb2.GenerateResponse:
        """One message of the Generate stream; artifact bytes are no event and take no number."""
        if isinstance(event, ArtifactChunk):
            chunk = ARTIFACT_CHUNKS.write(event)
            return generation_service_pb2.GenerateResponse(artifact_chunk=chunk)
        self._sequence += 1
        message = JOB_EVENTS.write(event)
        message.job_id = self._job_id
        message.sequence = self._sequence
        now = Timestamp()
        now.GetCurrentTime()
        message.event_time.CopyFrom(now)
        return generation_service_pb2.GenerateResponse(event=message)
