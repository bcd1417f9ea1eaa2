"""The blocking client."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Self, Unpack

import grpc

from triptych.channel import (
    DEFAULT_TARGET,
    DEFAULT_TIMEOUT_SECONDS,
    call_metadata,
    channel_options,
)
from triptych.codec.tables import MODELS, UPLOADED_IMAGES
from triptych.domain.deadline import Deadline, checked_timeout
from triptych.domain.generation import GenerationRequest, RequestOptions
from triptych.domain.input_image import ImageFile, UploadedImage
from triptych.domain.model import ModelInfo
from triptych.download import Download, DownloadReader, download_request
from triptych.errors import InvalidRequestError, TriptychError, error_from
from triptych.event_reader import EventReader
from triptych.events import Completed, Event
from triptych.generation import Generation
from triptych.request_writer import (
    LIMITS_SECONDS,
    RequestWriter,
    by_limits,
    read_upload,
    upload_chunks,
)
from triptych.status import failure_of
from triptych.v1 import generation_service_pb2 as messages
from triptych.v1.generation_service_pb2_grpc import GenerationServiceStub


class Client:
    """Talks to one cluster; thread-safe; a context manager.

    Every method raises a TriptychError when the cluster refuses, fails or cannot be reached.
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
        self._target = target
        self._timeout = checked_timeout(timeout)
        self._metadata = call_metadata(api_key)
        self._channel = (
            grpc.insecure_channel(target, channel_options(target))
            if credentials is None
            else grpc.secure_channel(target, credentials, channel_options(target))
        )
        self._stub = GenerationServiceStub(self._channel)

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
        self._channel.close()

    def generate(
        self,
        prompt: str,
        *,
        timeout: float | None = None,
        on_event: Callable[[Event], None] | None = None,
        **options: Unpack[RequestOptions],
    ) -> Generation:
        """Generates a picture and waits for it.

        Args:
            prompt: what to draw.
            timeout: seconds the whole generation may take.
            on_event: called with every event; what it raises cancels the generation.
            **options: see GenerationRequest.
        """
        generation: Generation | None = None
        with closing(self.stream(prompt, timeout=timeout, **options)) as events:
            for event in events:
                if on_event is not None:
                    on_event(event)
                if isinstance(event, Completed):
                    generation = event.generation
        assert generation is not None, "a stream that ends without Completed raises"
        return generation

    def stream(
        self, prompt: str, *, timeout: float | None = None, **options: Unpack[RequestOptions]
    ) -> Generator[Event, None, None]:
        """Generates a picture and yields what happens; the last event is Completed.

        The request is sent when the first event is asked for. Closing the iterator cancels it.

        Args:
            prompt: what to draw.
            timeout: seconds the whole generation may take.
            **options: see GenerationRequest.
        """
        request = GenerationRequest(prompt=prompt, **options)
        return self._events(request, self._or_default(timeout))

    def upload_image(self, image: ImageFile, *, timeout: float | None = None) -> UploadedImage:
        """Sends a picture ahead of the requests that take it in.

        Large pictures are uploaded by `generate` and `stream` themselves; this is for a picture
        that several requests take in.

        Args:
            image: the bytes of a PNG, JPEG or WebP file, or the path of one.
            timeout: seconds the upload may take.

        Raises:
            OSError: its file cannot be read.
        """
        chunks = upload_chunks(read_upload(image))
        with self._translated():
            response = self._stub.UploadImage(
                chunks, timeout=self._or_default(timeout), metadata=self._metadata
            )
        return UPLOADED_IMAGES.read(response, strict=False)

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
        request, reader = download_request(artifact_id, offset), DownloadReader(offset)
        with self._translated():
            for response in self._stub.DownloadArtifact(
                request, timeout=self._or_default(timeout), metadata=self._metadata
            ):
                reader.read(response)
        return reader.finish()

    def models(self, *, timeout: float | None = None) -> list[ModelInfo]:
        """The models a request may name now."""
        with self._translated():
            response = self._stub.ListModels(
                messages.ListModelsRequest(),
                timeout=self._or_default(timeout),
                metadata=self._metadata,
            )
        return [MODELS.read(model, strict=False) for model in response.models]

    def model(self, name: str, *, timeout: float | None = None) -> ModelInfo:
        """One model's limits and defaults.

        Raises:
            ModelNotFoundError: it is not served.
        """
        with self._translated():
            response = self._stub.GetModel(
                messages.GetModelRequest(name=name),
                timeout=self._or_default(timeout),
                metadata=self._metadata,
            )
        return MODELS.read(response.model, strict=False)

    def _events(self, request: GenerationRequest, timeout: float) -> Generator[Event, None, None]:
        deadline = Deadline.after(timeout)
        writer = self._writer(request, deadline)
        for upload in writer.uploads():
            with upload.named():
                seconds = deadline.remaining_seconds()
                upload.done(self.upload_image(upload.data, timeout=seconds))
        reader = EventReader()
        call = self._stub.Generate(
            writer.message, timeout=deadline.remaining_seconds(), metadata=self._metadata
        )
        try:
            with self._translated():
                for response in call:
                    event = reader.read(response)
                    if event is not None:
                        yield event
            reader.finish()
        finally:
            call.cancel()

    def _writer(self, request: GenerationRequest, deadline: Deadline) -> RequestWriter:
        try:
            return RequestWriter(request)
        except InvalidRequestError as refused:
            try:
                models = self.models(timeout=min(deadline.remaining_seconds(), LIMITS_SECONDS))
            except TriptychError:
                raise refused from None
            raise by_limits(refused, request, models) from None

    def _or_default(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else checked_timeout(timeout)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise error_from(failure_of(error, f"the cluster at {self._target}")) from error
