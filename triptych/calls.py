"""Every call of a client, from the first message to the last one, as steps.

What is safe to repeat is repeated: reads, cancelling, a submission under its id; a watch goes on
after the last event, a download at the next byte. Uploads, and Generate before its first event, are
not repeated: what became of them is not known.
"""

import uuid
from collections.abc import Collection
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from triptych.codec.tables import JOB_QUERIES, JOBS, MODELS, UPLOADED_IMAGES
from triptych.domain.deadline import Deadline
from triptych.domain.generation import GenerationRequest
from triptych.domain.input_image import ImageFile, UploadedImage
from triptych.domain.job import Job, JobQuery, JobState, Scheduling
from triptych.domain.model import ModelInfo
from triptych.download import Download, DownloadReader
from triptych.errors import InvalidRequestError, TriptychError, refusal
from triptych.event_reader import EventReader
from triptych.request_writer import LIMITS_SECONDS, RequestWriter, by_limits, read_upload
from triptych.retries import Retries
from triptych.steps import Call, Emit, OnLeave, Open, Pause, Receive, SendImage, Steps, Work
from triptych.v1 import generation_service_pb2 as messages

_CANCEL_SECONDS: Final = 2.0
"""How long a caller that leaves waits for its job to be cancelled."""


class Resumable(Protocol):
    """What reads a stream that another one can go on with: EventReader and DownloadReader."""

    @property
    def position(self) -> int:
        """How far it got; another stream begins there."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes."""
        ...

    def request(self) -> tuple[str, Message]:
        """The method that gives what was not read yet, and what it is asked."""
        ...

    def break_off(self, error: TriptychError) -> None:
        """Called when the stream broke; raises why no other one can go on."""
        ...

    def read(self, response: Any) -> object | None:  # noqa: ANN401 - its method's
        """What a message tells the caller, if anything."""
        ...


def models(timeout: float) -> Steps[list[ModelInfo]]:
    """What a request may name."""
    request = messages.ListModelsRequest()
    response = yield from _answered("ListModels", request, Deadline.after(timeout))
    return [MODELS.read(model, strict=False) for model in response.models]


def model(name: str, timeout: float) -> Steps[ModelInfo]:
    """One of them."""
    request = messages.GetModelRequest(name=name)
    response = yield from _answered("GetModel", request, Deadline.after(timeout))
    return MODELS.read(response.model, strict=False)


def upload_image(image: ImageFile, timeout: float) -> Steps[UploadedImage]:
    """Sends a picture ahead of its requests."""
    deadline = Deadline.after(timeout)
    data = yield Work(lambda: read_upload(image))
    return (yield from _uploaded(data, deadline))


def generate(
    request: GenerationRequest, scheduling: Scheduling | None, timeout: float
) -> Steps[None]:
    """Emits a job's events; the last one is Completed. Whoever leaves cancels the job."""
    deadline = Deadline.after(timeout)
    writer = yield from _written(request, scheduling, deadline)
    reader = EventReader(writer.generate())
    yield OnLeave(lambda: _cancelling(reader.job_id) if reader.is_bound else None)
    yield from _events(reader, deadline)


def submit(
    request: GenerationRequest,
    scheduling: Scheduling | None,
    request_id: str | None,
    timeout: float,
) -> Steps[Job]:
    """The job, also where the answer to the same submission was lost before."""
    deadline = Deadline.after(timeout)
    writer = yield from _written(request, scheduling, deadline)
    asked = writer.submit(uuid.uuid4().hex if request_id is None else request_id)
    response = yield from _answered("SubmitJob", asked, deadline)
    return JOBS.read(response.job, strict=False)


def get(job_id: str, timeout: float) -> Steps[Job]:
    """What is known of a job."""
    request = messages.GetJobRequest(job_id=job_id)
    response = yield from _answered("GetJob", request, Deadline.after(timeout))
    return JOBS.read(response.job, strict=False)


def cancel(job_id: str, timeout: float) -> Steps[Job]:
    """The job, which has ended."""
    request = messages.CancelJobRequest(job_id=job_id)
    response = yield from _answered("CancelJob", request, Deadline.after(timeout))
    return JOBS.read(response.job, strict=False)


def jobs(states: Collection[JobState], page_size: int, timeout: float) -> Steps[None]:
    """Emits every Job, page by page.

    Args:
        states: which; empty for all.
        page_size: jobs to be asked for at once; 0 for as many as the cluster likes.
        timeout: seconds for a page.
    """
    request = messages.ListJobsRequest()
    query = JobQuery(page_size=page_size, states=tuple(states))
    if violations := list(JOB_QUERIES.fill(request, query)):
        raise refusal(violations)
    while True:
        response = yield from _answered("ListJobs", request, Deadline.after(timeout))
        for job in response.jobs:
            yield Emit(JOBS.read(job, strict=False))
        if not response.next_page_token:
            return
        request.page_token = response.next_page_token


def watch(job_id: str, after_sequence: int, timeout: float) -> Steps[None]:
    """Emits a job's events after one of them; the last one is Completed."""
    reader = EventReader(job_id=job_id, after_sequence=after_sequence)
    yield from _events(reader, Deadline.after(timeout))


def fetch(job_id: str, timeout: float) -> Steps[None]:
    """As `watch`, from the last event on that there is."""
    deadline = Deadline.after(timeout)
    response = yield from _answered("GetJob", messages.GetJobRequest(job_id=job_id), deadline)
    last = response.job.last_sequence
    yield from _events(EventReader(job_id=job_id, after_sequence=max(0, last - 1)), deadline)


def download(artifact_id: str, offset: int, timeout: float) -> Steps[Download]:
    """An artifact's bytes, from an offset on."""
    return (yield from _downloaded(artifact_id, offset, Deadline.after(timeout)))


def _events(reader: EventReader, deadline: Deadline) -> Steps[None]:
    yield from _streamed(reader, deadline)
    reader.finish()
    if not reader.missing:
        return
    files = []
    for artifact in reader.missing:
        downloaded = yield from _downloaded(artifact.artifact_id, 0, deadline)
        files.append(downloaded.data)
    yield Emit((yield Work(lambda: reader.complete(files))))


def _downloaded(artifact_id: str, offset: int, deadline: Deadline) -> Steps[Download]:
    reader = DownloadReader(artifact_id, offset)
    yield from _streamed(reader, deadline)
    download: Download = yield Work(reader.finish)
    return download


def _streamed(reader: Resumable, deadline: Deadline) -> Steps[None]:
    """Reads a stream to its end, through as many breaks as the deadline allows."""
    retries = Retries(deadline)
    yield Open(*reader.request(), deadline.remaining_seconds())
    while True:
        try:
            response = yield Receive()
        except TriptychError as error:
            if reader.has_ended:
                # Nothing but the status was lost.
                return
            reader.break_off(error)
            yield Pause(retries.pause_seconds(error))
            yield Open(*reader.request(), deadline.remaining_seconds())
            continue
        if response is None:
            return
        position = reader.position
        value = reader.read(response)
        if reader.position > position:
            retries.advanced()
        if value is not None:
            yield Emit(value)


def _answered(method: str, request: Message, deadline: Deadline) -> Steps[Any]:
    """The answer to what is safe to repeat."""
    retries = Retries(deadline)
    while True:
        try:
            return (yield Call(method, request, deadline.remaining_seconds()))
        except TriptychError as error:
            yield Pause(retries.pause_seconds(error))


def _written(
    request: GenerationRequest, scheduling: Scheduling | None, deadline: Deadline
) -> Steps[RequestWriter]:
    """A request whose large pictures are there already."""
    writer = yield from _writer(request, scheduling, deadline)
    for upload in (yield Work(writer.uploads)):
        with upload.named():
            upload.done((yield from _uploaded(upload.data, deadline)))
    return writer


def _uploaded(data: bytes, deadline: Deadline) -> Steps[UploadedImage]:
    response = yield SendImage(data, deadline.remaining_seconds())
    return UPLOADED_IMAGES.read(response, strict=False)


def _writer(
    request: GenerationRequest, scheduling: Scheduling | None, deadline: Deadline
) -> Steps[RequestWriter]:
    try:
        return RequestWriter(request, scheduling)
    except InvalidRequestError as refused:
        seconds = min(deadline.remaining_seconds(), LIMITS_SECONDS)
        try:
            response = yield Call("ListModels", messages.ListModelsRequest(), seconds)
        except TriptychError:
            raise refused from None
        served = [MODELS.read(model, strict=False) for model in response.models]
        raise by_limits(refused, request, served) from None


def _cancelling(job_id: str) -> Call:
    return Call("CancelJob", messages.CancelJobRequest(job_id=job_id), _CANCEL_SECONDS)
