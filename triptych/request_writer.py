"""Writes one Generate request: which pictures travel inside it, and which are uploaded before."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from os import PathLike
from typing import Final

from google.protobuf.message import Message

from triptych.cache_wire import fill_cache
from triptych.errors import InvalidRequestError
from triptych.family_options import GROUPS, FamilyOptions
from triptych.input_image import ImageFile, UploadedImage, is_url, read_image
from triptych.request import GenerationRequest
from triptych.status import Failure, FieldViolation
from triptych.v1 import generation_pb2, generation_service_pb2, tensor_pb2

_MAX_INLINE_BYTES: Final = 3 * 1024 * 1024
"""Servers of gRPC read at most 4 MiB of one message unless they are told otherwise."""
_CHUNK_BYTES: Final = 1024 * 1024

_LARGEST: Final = {"seed": 2**63 - 1}
_UINT32_MAX: Final = 2**32 - 1
_CHOICES: Final[dict[str, dict[str, int]]] = {
    "dtype": {
        "float32": tensor_pb2.ELEMENT_TYPE_FLOAT32,
        "bfloat16": tensor_pb2.ELEMENT_TYPE_BFLOAT16,
        "float16": tensor_pb2.ELEMENT_TYPE_FLOAT16,
    },
    "media_format": {
        "png": generation_pb2.MEDIA_FORMAT_PNG,
        "mp4": generation_pb2.MEDIA_FORMAT_MP4,
        "png_archive": generation_pb2.MEDIA_FORMAT_PNG_ARCHIVE,
    },
}
_PLAIN_FIELDS: Final = (
    "prompt",
    "model",
    "negative_prompt",
    "width",
    "height",
    "steps",
    "guidance_scale",
    "seed",
    "preview_every_steps",
)


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
            raise _invalid(violations) from error


class RequestWriter:
    """The message of one request, in the making; knows nothing of how it is sent.

    Fills in what the caller gave, and nothing else: limits and defaults are the cluster's.

    Args:
        request: what to generate.

    Raises:
        InvalidRequestError: a value that the wire cannot carry.
        TypeError: a value of the wrong type.
    """

    def __init__(self, request: GenerationRequest) -> None:
        if isinstance(request.images, bytes | str | PathLike):
            raise TypeError("images is one picture; give a sequence of pictures")
        self._images = tuple(request.images)
        self._message = generation_pb2.GenerationParameters()
        violations = [*_fill(self._message, request), *_fill_images(self._message, self._images)]
        if violations:
            raise _invalid(violations)

    def uploads(self) -> list[Upload]:
        """Reads the pictures; gives those that are too large to travel inside the request.

        Raises:
            OSError: the file of one cannot be read.
        """
        pending = [
            Upload(read_image(image), f"images[{number}]", self._message.images[number])
            for number, image in enumerate(self._images)
            if not isinstance(image, UploadedImage)
        ]
        if self._message.ByteSize() + sum(len(each.data) for each in pending) > _MAX_INLINE_BYTES:
            return pending
        for each in pending:
            each.place.data = each.data
        return []

    @property
    def message(self) -> generation_service_pb2.GenerateRequest:
        """The request; whole when all `uploads` are done."""
        return generation_service_pb2.GenerateRequest(parameters=self._message)


def read_upload(image: ImageFile) -> bytes:
    """The encoded picture of one UploadImage call.

    Raises:
        InvalidRequestError: it is a URL.
        TypeError: it is no picture at all.
        OSError: its file cannot be read.
    """
    if violations := list(_image_violations("image", image)):
        raise _invalid(violations)
    return read_image(image)


def upload_chunks(data: bytes) -> Iterator[generation_service_pb2.UploadImageRequest]:
    """The messages of one UploadImage call."""
    for offset in range(0, len(data), _CHUNK_BYTES):
        chunk = data[offset : offset + _CHUNK_BYTES]
        yield generation_service_pb2.UploadImageRequest(data=chunk)


def _fill(
    message: generation_pb2.GenerationParameters, request: GenerationRequest
) -> Iterator[FieldViolation]:
    for name in _PLAIN_FIELDS:
        yield from _set(message, name, getattr(request, name))
    for name, choices in _CHOICES.items():
        chosen = getattr(request, name)
        if chosen is not None and chosen not in choices:
            allowed = ", ".join(choices)
            yield FieldViolation(name, f"is {chosen}; allowed are {allowed}")
        elif chosen is not None:
            setattr(message, name, choices[chosen])
    if request.cache is not None:
        yield from fill_cache(message.acceleration, request.cache)
    if request.options is not None:
        yield from _fill_options(message, request.options)


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
    if isinstance(image, str) and is_url(image):
        yield FieldViolation(
            field, f"is the URL {image}; allowed are bytes and paths of files: download it first"
        )


def _fill_options(
    message: generation_pb2.GenerationParameters, options: FamilyOptions
) -> Iterator[FieldViolation]:
    groups = [name for name, kind in GROUPS.items() if isinstance(options, kind)]
    if not groups:
        allowed = ", ".join(each.__name__ for each in GROUPS.values())
        raise TypeError(f"options is of type {type(options).__name__}; allowed are {allowed}")
    written = getattr(message, groups[0])
    # Set even if it is empty: it says whose options they are.
    written.SetInParent()
    for field, value in zip(fields(options), astuple(options), strict=True):
        yield from _set(written, field.name, value, f"{groups[0]}.{field.name}")


def _set(message: Message, name: str, value: object, path: str = "") -> Iterator[FieldViolation]:
    try:
        if value is not None:
            setattr(message, name, value)
    except ValueError as error:
        yield FieldViolation(path or name, _unsendable(name, value, error))


def _unsendable(name: str, value: object, error: ValueError) -> str:
    if isinstance(value, str):
        return f"is {value!r}; allowed is text in Unicode ({error})"
    return f"is {value}; allowed are 0 to {_LARGEST.get(name, _UINT32_MAX)}"


def _invalid(violations: Sequence[FieldViolation]) -> InvalidRequestError:
    message = "; ".join(f"{each.field}: {each.description}" for each in violations)
    failure = Failure("INVALID_ARGUMENT", "INVALID_REQUEST", message, tuple(violations))
    return InvalidRequestError(failure)
