"""Bytes that are no message: refused as any other bad request.

gRPC itself would answer UNKNOWN with the name of a Python class, and log a traceback, for something
that anybody can send.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from google.protobuf.message import DecodeError

from triptych.domain.errors import InvalidRequest

_UNREADABLE: Final = object()

Deserializer = Callable[[bytes], Any]


def lenient(read: Deserializer | None) -> Deserializer | None:
    """The same deserializer, which gives `read_request` what it cannot read."""
    if read is None:
        return None

    def try_to_read(data: bytes) -> object:
        try:
            return read(data)
        except DecodeError:
            return _UNREADABLE

    return try_to_read


def read_request(request: Any) -> Any:  # noqa: ANN401 - a message of any type
    """What a lenient deserializer gave: a message, or a stream of them.

    Raises:
        InvalidRequest: it is no message of the method's; for a stream, when that one is read.
    """
    if hasattr(request, "__aiter__"):
        return _read_each(request)
    if request is _UNREADABLE:
        raise InvalidRequest.of("request", "cannot be read as the message that the method takes")
    return request


async def _read_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield read_request(request)
