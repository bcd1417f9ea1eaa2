"""The blocking client."""

from collections.abc import Callable, Collection, Generator
from contextlib import closing
from types import TracebackType
from typing import Self, Unpack

import grpc

from triptych import calls
from triptych.blocking_transport import BlockingTransport
from triptych.channel import DEFAULT_TARGET, DEFAULT_TIMEOUT_SECONDS, call_metadata
from triptych.domain.deadline import checked_timeout
from triptych.domain.generation import GenerationRequest, RequestOptions
from triptych.domain.input_image import ImageFile, UploadedImage
from triptych.domain.job import Job, JobState, Scheduling
from triptych.domain.model import ModelInfo
from triptych.download import Download
from triptych.events import Completed, Event
from triptych.generation import Generation


class Client:
    """Talks to one cluster; thread-safe; a context manager.

    Every method raises a TriptychError when the cluster refuses, fails or cannot be reached. Calls
    that are safe to repeat are repeated before that, within their timeout.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        credentials: grpc.ChannelCredentials | None = None,
        api_key: str | None = None,
    ) -> None:
        """Connects when the first call is made.

        Args:
            target: host:port, or unix:/path.
            timeout: seconds a call may take where the call itself does not say; math.inf for as
                long as the cluster allows.
            credentials: for TLS, see triptych.tls_credentials; None for a plain connection.
            api_key: sent with every call; None where the cluster asks for none.

        Raises:
            ValueError: the key is nothing a header can carry, or the timeout negative or no number.
        """
        self._timeout = checked_timeout(timeout)
        self._transport = BlockingTransport(target, credentials, call_metadata(api_key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; what still runs on it is cancelled."""
        self._transport.close()

    def generate(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        on_event: Callable[[Event], None] | None = None,
        scheduling: Scheduling | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generation:
        """Generates a picture and waits for it.

        Args:
            prompt: what to draw.
            timeout: seconds the whole generation may take.
            on_event: called with every event; what it raises cancels the generation.
            scheduling: how urgent it is; None for as the cluster likes.
            **options: see GenerationRequest.
        """
        events = self.stream(prompt, timeout=timeout, scheduling=scheduling, **options)
        return _generation(events, on_event)

    def stream(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        scheduling: Scheduling | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generator[Event, None, None]:
        """Generates a picture and yields what happens; the last event is Completed.

        The request is sent when the first event is asked for. Closing the iterator cancels it.
        When the connection breaks after the first event, the events go on over another one, where
        the cluster keeps jobs.

        Args:
            prompt: what to draw.
            timeout: seconds the whole generation may take.
            scheduling: how urgent it is; None for as the cluster likes.
            **options: see GenerationRequest.
        """
        request = GenerationRequest(prompt=prompt, **options)
        steps = calls.generate(request, scheduling, self._seconds(timeout))
        return self._transport.emitted(steps)

    def submit(
        self,
        prompt: str,
        *,
        request_id: str | None = None,
        timeout: float | None = None,
        scheduling: Scheduling | None = None,
        **options: Unpack[RequestOptions],
    ) -> Job:
        """Hands a generation in and returns at once; the job goes on whoever watches it.

        Args:
            prompt: what to draw.
            request_id: up to 128 characters; a request that came with it before is the same job.
                Drawn if None.
            timeout: seconds the call may take; not the job, see Scheduling.
            scheduling: how urgent it is; None for as the cluster likes.
            **options: see GenerationRequest.

        Raises:
            AlreadyExistsError: the request_id came with another request before.
        """
        request = GenerationRequest(prompt=prompt, **options)
        steps = calls.submit(request, scheduling, request_id, self._seconds(timeout))
        return self._transport.returned(steps)

    def get(self, job_id: str, *, timeout: float | None = None) -> Job:
        """What is known of a job of this tenant's now.

        Raises:
            NotFoundError: there is no such job.
            OutOfRangeError: it has ended and is no longer kept.
        """
        return self._transport.returned(calls.get(job_id, self._seconds(timeout)))

    def watch(
        self, job_id: str, *, after_sequence: int = 0, timeout: float | None = None
    ) -> Generator[Event, None, None]:
        """Yields a job's events, from the first one on; the last one is Completed.

        Leaving the iterator changes nothing for the job.

        Args:
            job_id: of a job of this tenant's.
            after_sequence: the last event that is known already, for example a Job's
                `last_sequence`; 0 for all.
            timeout: seconds the watching may take.

        Raises:
            NotFoundError: there is no such job.
            OutOfRangeError: it, or an event that is asked for, is no longer kept.
            CancelledError: the job was cancelled.
            TriptychError: the job failed so.
        """
        steps = calls.watch(job_id, after_sequence, self._seconds(timeout))
        return self._transport.emitted(steps)

    def fetch(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> Generation:
        """A job's result, which is waited for.

        Args:
            job_id: of a job of this tenant's.
            timeout: seconds the job may take from now on, and the download.
            on_event: called with what happens from now on; what it raises leaves the job alone.

        Raises:
            NotFoundError: there is no such job, or its result is no longer kept.
            OutOfRangeError: it is no longer kept.
            CancelledError: the job was cancelled.
            TriptychError: the job failed so.
        """
        steps = calls.fetch(job_id, self._seconds(timeout))
        return _generation(self._transport.emitted(steps), on_event)

    def cancel(self, job_id: str, *, timeout: float | None = None) -> Job:
        """Cancels a job, if it has not ended; gives what became of it.

        Raises:
            NotFoundError: there is no such job.
            OutOfRangeError: it has ended and is no longer kept.
        """
        return self._transport.returned(calls.cancel(job_id, self._seconds(timeout)))

    def jobs(
        self,
        states: Collection[JobState] = (),
        *,
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Generator[Job, None, None]:
        """Yields this tenant's jobs, newest first.

        Args:
            states: which, for example [JobState.RUNNING]; empty for all.
            page_size: how many are asked for at once; 0 for as many as the cluster likes.
            timeout: seconds that asking for a page may take.
        """
        steps = calls.jobs(states, page_size, self._seconds(timeout))
        return self._transport.emitted(steps)

    def upload_image(self, image: ImageFile, *, timeout: float | None = None) -> UploadedImage:
        """Sends a picture ahead of the requests that take it in.

        Large pictures are uploaded by `generate`, `stream` and `submit` themselves; this is for a
        picture that several requests take in.

        Args:
            image: the bytes of a PNG, JPEG or WebP file, or the path of one.
            timeout: seconds the upload may take.

        Raises:
            OSError: its file cannot be read.
        """
        steps = calls.upload_image(image, self._seconds(timeout))
        return self._transport.returned(steps)

    def download(
        self, artifact_id: str, *, offset: int = 0, timeout: float | None = None
    ) -> Download:
        """Downloads an artifact again that this tenant had drawn, while the cluster keeps it.

        Args:
            artifact_id: of one of a Generation's `artifacts`; its `expire_time` says until when.
            offset: the byte to begin with, to go on where an earlier download broke off.
            timeout: seconds the download may take.

        Raises:
            NotFoundError: there is no such artifact, or no longer.
            OutOfRangeError: the offset is beyond its end.
            ArtifactCorruptedError: the bytes are not those that were announced.
            ValueError: the offset is negative.
        """
        steps = calls.download(artifact_id, offset, self._seconds(timeout))
        return self._transport.returned(steps)

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """The models a request may name now."""
        return self._transport.returned(calls.models(self._seconds(timeout)))

    def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """One model's limits and defaults.

        Raises:
            ModelNotFoundError: it is not served.
        """
        return self._transport.returned(calls.model(name, self._seconds(timeout)))

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else checked_timeout(timeout)


def _generation(
    events: Generator[Event, None, None], on_event: Callable[[Event], None] | None
) -> Generation:
    generation: Generation | None = None
    with closing(events):
        for event in events:
            if on_event is not None:
                on_event(event)
            if isinstance(event, Completed):
                generation = event.generation
    assert generation is not None, "events that end without Completed raise"
    return generation
