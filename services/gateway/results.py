"""What jobs had drawn, kept so that it can be downloaded, and again."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from google.protobuf import json_format

from services.artifacts.artifact import ArtifactKey, ArtifactKind, StoredArtifact
from services.domain.job_event import ArtifactChunk
from services.gateway.access import Tenant
from services.gateway.artifact_calls import ArtifactCalls, ArtifactWriting
from triptych.codec.tables import ARTIFACTS
from triptych.domain.errors import AlreadyExists, TriptychError, Unavailable
from triptych.domain.generation_result import Artifact, GenerationResult
from triptych.domain.model import MediaFormat
from triptych.v1 import generation_pb2

# After which the store counts as out of reach.
_KEEP_SECONDS: Final = 10.0
_URL_SECONDS: Final = 900.0
_CONTENT_TYPES: Final = {
    MediaFormat.PNG: "image/png",
    MediaFormat.JPEG: "image/jpeg",
    MediaFormat.WEBP: "image/webp",
    MediaFormat.MP4: "video/mp4",
    MediaFormat.PNG_ARCHIVE: "application/zip",
}


TakeChunk = Callable[[ArtifactChunk], Awaitable[None]]


class NotKept(Exception):
    """The artifact store did not take a result.

    Attributes:
        error: why.
    """

    def __init__(self, error: TriptychError) -> None:
        super().__init__(str(error))
        self.error = error


class Result(Protocol):
    """One artifact on its way from a stage to whoever wants it."""

    def open(self, artifact: Artifact) -> None:
        """Says what the bytes will be of."""
        ...

    async def write(self, data: bytes) -> None:
        """Takes bytes along; raises NotKept."""
        ...

    async def commit(self, artifact: Artifact) -> Artifact:
        """The artifact as it can be had: with an expiry if it is kept. Raises NotKept."""
        ...

    def discard(self) -> None:
        """Forgets it, unless it was committed. Idempotent."""
        ...


class Results:
    """Keeps artifacts and hands them out; what cannot be kept goes to a caller who waits for it.

    Args:
        calls: the artifact store's.
        ttl_seconds: how long each is kept.
    """

    def __init__(self, calls: ArtifactCalls, ttl_seconds: float) -> None:
        self._calls = calls
        self._ttl_seconds = ttl_seconds
        self._awaited: dict[str, _Caller] = {}

    def begin(self, tenant: Tenant) -> "KeptResult":
        """For one artifact that is about to come from a stage."""
        return KeptResult(self._calls, tenant, self._ttl_seconds)

    async def linked(self, tenant: str, result: GenerationResult) -> GenerationResult:
        """The same with URLs of its artifacts, as far as they are kept and the store signs some."""
        artifacts = [await self._linked(tenant, artifact) for artifact in result.artifacts]
        return replace(result, artifacts=tuple(artifacts))

    async def _linked(self, tenant: str, artifact: Artifact) -> Artifact:
        key = ArtifactKey(tenant, ArtifactKind.RESULT, artifact.artifact_id)
        try:
            url = await self._calls.url(key, _URL_SECONDS)
        except TriptychError:
            # It has expired, or the store is away: the job is known all the same.
            url = None
        return artifact if url is None else replace(artifact, url=url)

    @contextmanager
    def awaited(self, job_id: str, take: TakeChunk) -> Iterator[None]:
        """Lets what cannot be kept of a job be given to a caller for as long as the context lasts.

        Args:
            job_id: whose artifacts the caller wants.
            take: gives the caller a chunk, as soon as there is room for it.
        """
        self._awaited[job_id] = _Caller(take)
        try:
            yield
        finally:
            del self._awaited[job_id]

    def hand_over(self, job_id: str) -> "HandedResult | None":
        """For one artifact of a job whose caller waits for it in this process, if one does."""
        caller = self._awaited.get(job_id)
        return None if caller is None else HandedResult(caller)

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


@dataclass(slots=True)
class _Caller:
    """Who waits for a job's artifacts, and how much of each was handed over."""

    take: TakeChunk
    handed: dict[str, int] = field(default_factory=dict)


class HandedResult:
    """One artifact that is handed to the caller who waits, and kept by nobody.

    A decode that is tried again gives the same bytes again: what was handed over is skipped.
    """

    def __init__(self, caller: _Caller) -> None:
        self._caller = caller
        self._artifact: Artifact | None = None
        self._offset = 0

    def open(self, artifact: Artifact) -> None:
        """See Result."""
        self._artifact = artifact

    async def write(self, data: bytes) -> None:
        """See Result."""
        assert self._artifact is not None
        handed = self._caller.handed.get(self._artifact.artifact_id, 0)
        begin = max(0, handed - self._offset)
        self._offset += len(data)
        if begin < len(data):
            # Only the first chunk says what the bytes are.
            described = None if handed else self._artifact
            await self._caller.take(ArtifactChunk(described, handed, data[begin:]))
            self._caller.handed[self._artifact.artifact_id] = self._offset

    async def commit(self, artifact: Artifact) -> Artifact:
        """See Result."""
        return artifact

    def discard(self) -> None:
        """See Result."""


class KeptResult:
    """One artifact that is put into the store.

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
        """See Result."""
        limits = self._calls.limits(self._tenant, result=True)
        self._writing = self._calls.begin(self._key(artifact), self._ttl_seconds, limits)

    async def write(self, data: bytes) -> None:
        """See Result."""
        assert self._writing is not None
        with _keeping():
            async with asyncio.timeout(_KEEP_SECONDS):
                await self._writing.write(data)

    async def commit(self, artifact: Artifact) -> Artifact:
        """See Result."""
        assert self._writing is not None
        with _keeping():
            async with asyncio.timeout(_KEEP_SECONDS):
                stored = await self._stored(self._writing, artifact)
        return replace(artifact, expire_time=stored.expires_at)

    def discard(self) -> None:
        """See Result."""
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


@contextmanager
def _keeping() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise NotKept(Unavailable(f"artifacts: no answer within {_KEEP_SECONDS:g} s")) from error
    except TriptychError as error:
        raise NotKept(error) from error


def _described(stored: StoredArtifact) -> Artifact:
    message = json_format.Parse(
        stored.description, generation_pb2.Artifact(), ignore_unknown_fields=True
    )
    return replace(ARTIFACTS.read(message), expire_time=stored.expires_at)
