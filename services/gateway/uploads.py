"""Input images that came before their requests."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from services.pictures.input_picture import MAX_BYTES, describe_picture
from triptych.domain.errors import InvalidRequest, ResourceExhausted
from triptych.domain.input_image import ImageDescription

# What keeping an upload takes beside its bytes, so that tiny ones cannot be piled up without end.
_LEAST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Upload:
    """One picture, kept until its time is over: several requests may name it."""

    tenant: str
    data: bytes
    described: ImageDescription
    expires_at: float


class Uploads:
    """Keeps uploads in this gateway's memory: another gateway does not know them.

    Args:
        quota_bytes: of all of them together; more are refused.
        ttl_seconds: how long each is kept.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        quota_bytes: int,
        ttl_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quota_bytes = quota_bytes
        self._ttl_seconds = ttl_seconds
        self._clock = clock
        # The oldest first: all are kept equally long.
        self._uploads: dict[str, Upload] = {}
        self._kept_bytes = 0
        # Of uploads that are still coming in, which count as well.
        self._arriving_bytes = 0

    async def take(self, tenant: str, chunks: AsyncIterator[bytes]) -> tuple[str, ImageDescription]:
        """Takes a picture in; returns the id that requests name it by, and what its header says.

        Raises:
            InvalidRequest: not a picture, or too large a one.
            ResourceExhausted: no room for it now.
        """
        data = bytearray()
        try:
            async for chunk in chunks:
                self._reserve(len(data), len(chunk))
                data += chunk
            picture = bytes(data)
            # In a thread: a crafted header takes seconds, in which others must be served.
            described = await asyncio.to_thread(describe_picture, "data", picture)
            # All of it is here, so it counts as kept in the same breath as no longer arriving.
            return self._keep(Upload(tenant, picture, described, self._clock() + self._ttl_seconds))
        finally:
            self._arriving_bytes -= len(data)

    def find(self, tenant: str, field: str, upload_id: str) -> Upload:
        """An upload of a tenant's own.

        Args:
            tenant: whose request names it.
            field: what the request calls it, for messages.
            upload_id: what `take` returned.

        Raises:
            InvalidRequest: there is no such upload, or no longer.
        """
        self._expire()
        upload = self._uploads.get(upload_id)
        if upload is None or upload.tenant != tenant:
            raise InvalidRequest.of(
                field, f"is {upload_id!r}, which is not here (any more); upload the image again"
            )
        return upload

    def _reserve(self, arrived: int, arriving: int) -> None:
        if arrived + arriving > MAX_BYTES:
            raise InvalidRequest.of(
                "data", f"has more than {MAX_BYTES} bytes; allowed are at most so many"
            )
        self._expire()
        if self._kept_bytes + self._arriving_bytes + arriving > self._quota_bytes:
            raise ResourceExhausted(
                f"uploaded images fill the gateway's {self._quota_bytes} bytes for them;"
                " repeat the upload later"
            )
        self._arriving_bytes += arriving

    def _keep(self, upload: Upload) -> tuple[str, ImageDescription]:
        upload_id = uuid.uuid4().hex
        self._uploads[upload_id] = upload
        self._kept_bytes += _charge(upload)
        return upload_id, upload.described

    def _expire(self) -> None:
        now = self._clock()
        while self._uploads:
            oldest = next(iter(self._uploads))
            if self._uploads[oldest].expires_at > now:
                return
            self._kept_bytes -= _charge(self._uploads.pop(oldest))


def _charge(upload: Upload) -> int:
    return max(len(upload.data), _LEAST_BYTES)
