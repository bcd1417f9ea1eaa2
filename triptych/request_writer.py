"""Writes one request: which pictures travel inside it, and which are uploaded before."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Final

from triptych.codec.tables import REQUESTS, SCHEDULINGS
from triptych.domain.errors import FieldViolation, InvalidRequest
from triptych.domain.generation import GenerationRequest, resolve
from triptych.domain.input_image import ImageFile, UploadedImage
from triptych.domain.job import Scheduling
from triptych.domain.model import ModelInfo
from triptych.errors import InvalidRequestError, refusal
from triptych.v1 import generation_pb2, generation_service_pb2, job_pb2

_MAX_INLINE_BYTES: Final = 3 * 1024 * 1024
"""Servers of gRPC read at most 4 MiB of one message unless they are told otherwise."""
_CHUNK_BYTES: Final = 1024 * 1024
LIMITS_SECONDS: Final = 5.0
"""How long the cluster is asked for the limits that a value exceeds which the wire cannot carry."""
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture that has to reach the cluster before the request that takes it in.

    Attributes:
        data: the encoded picture.
        field: what the request calls it.
        place: where the request takes it in.
    """

    data: bytes
    field: str
    place: generation_pb2.InputImage

    def done(self, uploaded: UploadedImage) -> None:
        """Lets the request name it."""
        self.place.upload_id = uploaded.upload_id

    @contextmanager
    def named(self) -> Iterator[None]:
        """Lets a refusal of the picture name it as the request does, which may have several.

        Raises:
            InvalidRequestError: it was refused.
        """
        try:
            yield
        except InvalidRequestError as error:
            if not error.violations:
                raise
            violations = [replace(each, field=self.field) for each in error.violations]
            raise refusal(violations) from error


class RequestWriter:
    """The message of one request, in the making; knows nothing of how it is sent.

    Fills in what the caller gave, and nothing else: limits and defaults are the cluster's.

    Args:
        request: what to generate.
        scheduling: when; None for as the cluster likes.

    Raises:
        InvalidRequestError: a value that the wire cannot carry.
        TypeError: a value of the wrong type.
    """

    def __init__(self, request: GenerationRequest, scheduling: Scheduling | None = None) -> None:
        if isinstance(request.images, bytes | str | PathLike):
            raise TypeError("images is one picture; give a sequence of pictures")
        self._images = tuple(request.images)
        self._message = generation_pb2.GenerationParameters()
        self._scheduling: job_pb2.SchedulingOptions | None = None
        violations = [
            *REQUESTS.fill(self._message, request),
            *_fill_images(self._message, self._images),
        ]
        if scheduling is not None:
            self._scheduling = job_pb2.SchedulingOptions()
            violations += SCHEDULINGS.fill(self._scheduling, scheduling, "scheduling.")
        if violations:
            raise refusal(violations)

    def uploads(self) -> list[Upload]:
        """Reads the pictures; gives those that are too large to travel inside the request.

        Raises:
            OSError: the file of one cannot be read.
        """
        pending = [
            Upload(_read(image), f"images[{number}]", self._message.images[number])
            for number, image in enumerate(self._images)
            if isinstance(image, bytes | str | PathLike)
        ]
        if self._message.ByteSize() + sum(len(each.data) for each in pending) > _MAX_INLINE_BYTES:
            return pending
        for each in pending:
            each.place.data = each.data
        return []

    def generate(self) -> generation_service_pb2.GenerateRequest:
        """A Generate call's request; whole when all `uploads` are done."""
        return generation_service_pb2.GenerateRequest(
            parameters=self._message, scheduling=self._scheduling
        )

    def submit(self, client_request_id: str) -> generation_service_pb2.SubmitJobRequest:
        """A SubmitJob call's request; whole when all `uploads` are done."""
        return generation_service_pb2.SubmitJobRequest(
            client_request_id=client_request_id,
            parameters=self._message,
            scheduling=self._scheduling,
        )


def by_limits(
    refused: InvalidRequestError, request: GenerationRequest, models: Sequence[ModelInfo]
) -> InvalidRequestError:
    """What the wire cannot carry, refused in the cluster's words, which name the model's limits.

    Args:
        refused: in the wire's words, which stay where the model that is asked for is not known.
        request: that was refused.
        models: that the cluster serves, as far as it says.
    """
    asked = [model for model in models if request.model in {None, model.name}]
    if len(asked) != 1:
        return refused
    try:
        # Without pictures, of which nobody has read the sizes that others follow from.
        resolve(replace(request, images=()), asked[0], lambda: 0)
    except InvalidRequest as error:
        limits = tuple(error.violations)
        return refusal(
            # Options of another family are refused as one, and so once.
            list(dict.fromkeys(_of_field(violation, limits) for violation in refused.violations))
        )
    return refused


def _of_field(unsendable: FieldViolation, limits: Sequence[FieldViolation]) -> FieldViolation:
    """What the limits say of a field, or of what it is part of."""
    path = f"{unsendable.field}."
    return next((limit for limit in limits if path.startswith(f"{limit.field}.")), unsendable)


def read_upload(image: ImageFile) -> bytes:
    """The encoded picture of one UploadImage call.

    Raises:
        InvalidRequestError: it is a URL.
        TypeError: it is no picture at all.
        OSError: its file cannot be read.
    """
    if violations := list(_image_violations("image", image)):
        raise refusal(violations)
    return _read(image)


def _read(image: ImageFile) -> bytes:
    return image if isinstance(image, bytes) else Path(image).read_bytes()


def upload_chunks(data: bytes) -> Iterator[generation_service_pb2.UploadImageRequest]:
    """The messages of one UploadImage call."""
    for offset in range(0, len(data), _CHUNK_BYTES):
        chunk = data[offset : offset + _CHUNK_BYTES]
        yield generation_service_pb2.UploadImageRequest(data=chunk)


def _fill_images(
    message: generation_pb2.GenerationParameters, images: Sequence[object]
) -> Iterator[FieldViolation]:
    for number, image in enumerate(images):
        place = message.images.add()
        if isinstance(image, UploadedImage):
            place.upload_id = image.upload_id
        else:
            yield from _image_violations(f"images[{number}]", image)


def _image_violations(field: str, image: object) -> Iterator[FieldViolation]:
    if not isinstance(image, bytes | str | PathLike):
        kinds = "the bytes or the path of a file, or in a request an UploadedImage"
        raise TypeError(f"{field} is of type {type(image).__name__}; a picture is {kinds}")
    if isinstance(image, str) and _URL.match(image):
        yield FieldViolation(
            field, f"is the URL {image}; allowed are bytes and paths of files: download it first"
        )
