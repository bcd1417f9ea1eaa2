"""What requests had drawn, kept so that it can be downloaded again."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Final

from google.protobuf import json_format

from services.artifacts.artifact import ArtifactKey, ArtifactKind, StoredArtifact
from services.domain.job_event import ArtifactChunk
from services.gateway.access import Tenant
from services.gateway.artifact_calls import ArtifactCalls, ArtifactWriting
from services.observability.logs import get_logger
from triptych.codec.tables import ARTIFACTS
from triptych.domain.errors import AlreadyExists, TriptychError, Unavailable
from triptych.domain.generation_result import Artifact
from triptych.domain.model import MediaFormat
from triptych.v1 import generation_pb2

# A request waits no longer than this for a part of its result to be kept: it has its bytes already.
_KEEP_SECONDS: Final = 10.0
_TOO_LONG: Final = Unavailable(f"artifacts: no answer within {_KEEP_SECONDS:g} s")
_CONTENT_TYPES: Final = {
    MediaFormat.PNG: "image/png",
    MediaFormat.JPEG: "image/jpeg",
    MediaFormat.WEBP: "image/webp",
    MediaFormat.MP4: "video/mp4",
    MediaFormat.PNG_ARCHIVE: "application/zip",
}

_log = get_logger(__name__)


class Results:
    """Keeps artifacts beside the streams that they are sent by, and hands them out again.

    Args:
        calls: the artifact store's.
        ttl_seconds: how long each is kept.
    """

    def __init__(self, calls: ArtifactCalls, ttl_seconds: float) -> None:
        self._calls = calls
        self._ttl_seconds = ttl_seconds

    def begin(self, tenant: Tenant) -> "KeptResult":
        """For one artifact that is about to come from a stage."""
        return KeptResult(self._calls, tenant, self._ttl_seconds)

    async def read(
        self, tenant: str, artifact_id: str, offset: int
    ) -> AsyncGenerator[ArtifactChunk, None]:
        """An artifact's bytes from an offset on; the first chunk describes it, whatever follows.

        Raises:
            ArtifactNotFound: the tenant has no such artifact, or no longer.
            OutOfRange: the offset is beyond its end.
            Unavailable: the store cannot be reached.
        """
        key = ArtifactKey(tenant, ArtifactKind.RESULT, artifact_id)
        artifact: Artifact | None = _described(await self._calls.stat(key))
        async for data in self._calls.read(key, offset):
            yield ArtifactChunk(artifact, offset, data)
            artifact = None
            offset += len(data)
        if artifact is not None:
            yield ArtifactChunk(artifact, offset, b"")


class KeptResult:
    """One artifact that is kept while it passes by. A failure to keep it is no failure of its job.

    Args:
        calls: the artifact store's.
        tenant: whose it is.
        ttl_seconds: how long it is kept.
    """

    def __init__(self, calls: ArtifactCalls, tenant: Tenant, ttl_seconds: float) -> None:
        self._calls = calls
        self._tenant = tenant
        self._ttl_seconds = ttl_seconds
        self._writing: ArtifactWriting | None = None

    def open(self, artifact: Artifact) -> None:
        """Says what the bytes will be of."""
        limits = self._calls.limits(self._tenant, result=True)
        self._writing = self._calls.begin(self._key(artifact), self._ttl_seconds, limits)

    async def write(self, data: bytes) -> None:
        """Takes bytes along."""
        if self._writing is not None:
            try:
                async with asyncio.timeout(_KEEP_SECONDS):
                    await self._writing.write(data)
            except TimeoutError:
                self._give_up(_TOO_LONG)
            except TriptychError as error:
                self._give_up(error)

    async def commit(self, artifact: Artifact) -> Artifact:
        """The artifact as it is kept: with an expiry if it is, without one if it is not."""
        if self._writing is None:
            return artifact
        try:
            async with asyncio.timeout(_KEEP_SECONDS):
                stored = await self._stored(self._writing, artifact)
        except TimeoutError:
            self._give_up(_TOO_LONG)
            return artifact
        except TriptychError as error:
            self._give_up(error)
            return artifact
        return replace(artifact, expire_time=stored.expires_at)

    def discard(self) -> None:
        """Forgets it, unless it was committed. Idempotent."""
        if self._writing is not None:
            self._writing.discard()
            self._writing = None

    async def _stored(self, writing: ArtifactWriting, artifact: Artifact) -> StoredArtifact:
        description = json_format.MessageToJson(ARTIFACTS.write(artifact), indent=None)
        try:
            return await writing.commit(_CONTENT_TYPES[artifact.media_format], description)
        except AlreadyExists:
            # A decode that was repeated gives the same bytes again.
            stored = await self._calls.stat(self._key(artifact))
            if stored.checksum_xxh3 != artifact.checksum_xxh3:
                raise
            return stored

    def _key(self, artifact: Artifact) -> ArtifactKey:
        return ArtifactKey(self._tenant.name, ArtifactKind.RESULT, artifact.artifact_id)

    def _give_up(self, error: TriptychError) -> None:
        _log.warning("result not kept", reason=error.reason, cause=str(error))
        self.discard()


def _described(stored: StoredArtifact) -> Artifact:
    message = json_format.Parse(
        stored.description, generation_pb2.Artifact(), ignore_unknown_fields=True
    )
    return replace(ARTIFACTS.read(message), expire_time=stored.expires_at)
