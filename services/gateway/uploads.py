"""Input images that came before their requests."""

import asyncio
import json
import threading
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

from services.artifacts.artifact import ArtifactKey, ArtifactKind
from services.artifacts.artifact_writer import ArtifactWriter
from services.gateway.access import Tenant
from services.gateway.artifact_calls import ArtifactCalls
from services.pictures.input_picture import MAX_BYTES, describe_picture
from triptych.domain.errors import ArtifactNotFound, DeadlineExceeded, InvalidRequest
from triptych.domain.input_image import ImageDescription

# What is inside is told by its first bytes, which its readers look at anyway.
_CONTENT_TYPE: Final = "application/octet-stream"


class Uploads:
    """Keeps uploads in the artifact store: every gateway that has the same store knows them.

    Args:
        calls: the store's.
        ttl_seconds: how long each is kept.
        idle_seconds: how long the next bytes of one that is coming in may be waited for.
    """

    def __init__(self, calls: ArtifactCalls, ttl_seconds: float, idle_seconds: float) -> None:
        self._calls = calls
        self._ttl_seconds = ttl_seconds
        self._idle_seconds = idle_seconds
        # One at a time is copied to be looked at: what that takes of memory is bounded.
        self._describing = threading.Lock()

    async def take(
        self, tenant: Tenant, chunks: AsyncIterator[bytes]
    ) -> tuple[str, ImageDescription]:
        """Takes a picture in; returns the id that requests name it by, and what its header says.

        Raises:
            InvalidRequest: not a picture, or too large a one.
            QuotaExceeded, ResourceExhausted: no room for it now.
            DeadlineExceeded: the next bytes were too long in coming.
            Unavailable: the store cannot be reached.
        """
        upload_id = uuid.uuid4().hex
        key = _key(tenant.name, upload_id)
        limits = self._calls.limits(tenant, result=False)
        writing = self._calls.begin(key, self._ttl_seconds, limits)
        try:
            arrived = 0
            async for chunk in self._timely(chunks):
                arrived += len(chunk)
                if arrived > MAX_BYTES:
                    raise InvalidRequest.of(
                        "data", f"has more than {MAX_BYTES} bytes; allowed are at most so many"
                    )
                await writing.write(chunk)
            # In a thread: a crafted header takes seconds, in which others must be served.
            described = await writing.run(self._described)
            await writing.commit(_CONTENT_TYPE, json.dumps(asdict(described)))
        finally:
            writing.discard()
        return upload_id, described

    async def described(self, tenant: str, field: str, upload_id: str) -> ImageDescription:
        """What is known of an upload of a tenant's own.

        Args:
            tenant: whose request names it.
            field: what the request calls it, for messages.
            upload_id: what `take` returned.

        Raises:
            InvalidRequest: there is no such upload, or no longer.
            Unavailable: the store cannot be reached.
        """
        with _missing(field, upload_id):
            stored = await self._calls.stat(_key(tenant, upload_id))
        return ImageDescription(**json.loads(stored.description))

    async def load(self, tenant: str, field: str, upload_id: str) -> bytes:
        """The bytes of an upload; takes and raises what `described` does."""
        with _missing(field, upload_id):
            return await self._calls.whole(_key(tenant, upload_id))

    def _described(self, writer: ArtifactWriter) -> ImageDescription:
        with self._describing:
            return describe_picture("data", writer.content())

    async def _timely(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        while True:
            try:
                async with asyncio.timeout(self._idle_seconds) as patience:
                    chunk = await anext(chunks, None)
            except TimeoutError as error:
                if not patience.expired():
                    raise
                raise DeadlineExceeded(
                    f"no more of the upload came for {self._idle_seconds:g} s; upload it again"
                ) from error
            if chunk is None:
                return
            yield chunk


def _key(tenant: str, upload_id: str) -> ArtifactKey:
    return ArtifactKey(tenant, ArtifactKind.UPLOAD, upload_id)


@contextmanager
def _missing(field: str, upload_id: str) -> Iterator[None]:
    try:
        yield
    except ArtifactNotFound as error:
        raise InvalidRequest.of(
            field, f"is {upload_id!r}, which is not here (any more); upload the image again"
        ) from error
