"""An artifact that was drawn before, downloaded again."""

import os
from dataclasses import dataclass
from pathlib import Path

import xxhash

from triptych.codec.tables import ARTIFACTS
from triptych.domain.generation_result import Artifact
from triptych.errors import ArtifactCorruptedError
from triptych.v1 import generation_service_pb2
from triptych.whole_file import write_whole


@dataclass(frozen=True, slots=True)
class Download:
    """The bytes of an artifact, from an offset on.

    Attributes:
        artifact: what the cluster says of the whole.
        offset: the first byte's place in the artifact.
        data: all bytes from there. Of a whole artifact the checksum was compared; of a part of one
            the number alone: compare `artifact.checksum_xxh3` with the XXH3-64 of all together.
    """

    artifact: Artifact
    offset: int
    data: bytes

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the data: whole or not at all.

        Raises:
            OSError: the file cannot be written; what was there before is still there.
        """
        return write_whole(path, self.data)


class DownloadReader:
    """The state between the messages of one download; knows nothing of how they arrive.

    Args:
        offset: where it begins.
    """

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._data = bytearray()
        self._artifact: Artifact | None = None

    def read(self, response: generation_service_pb2.DownloadArtifactResponse) -> None:
        """Takes one message.

        Raises:
            ArtifactCorruptedError: bytes are missing or surplus.
        """
        chunk = response.chunk
        if chunk.HasField("artifact"):
            self._artifact = ARTIFACTS.read(chunk.artifact, strict=False)
        expected = self._offset + len(self._data)
        if chunk.offset_bytes != expected:
            raise ArtifactCorruptedError(
                f"the artifact continued at byte {chunk.offset_bytes}; expected was {expected}"
            )
        self._data += chunk.data

    def finish(self) -> Download:
        """Called when the stream has ended without an error.

        Raises:
            ArtifactCorruptedError: the bytes are not those that were announced.
        """
        artifact, data = self._artifact, bytes(self._data)
        if artifact is None:
            raise ArtifactCorruptedError("the cluster sent bytes without saying of what")
        size_bytes = self._offset + len(data)
        if size_bytes != artifact.size_bytes:
            raise ArtifactCorruptedError(
                f"the artifact ended at byte {size_bytes}; announced were {artifact.size_bytes}"
            )
        checksum = artifact.checksum_xxh3 if self._offset else xxhash.xxh3_64_intdigest(data)
        if checksum != artifact.checksum_xxh3:
            raise ArtifactCorruptedError(
                f"the artifact arrived with checksum {checksum:016x};"
                f" announced was {artifact.checksum_xxh3:016x}"
            )
        return Download(artifact, self._offset, data)


def download_request(
    artifact_id: str, offset: int
) -> generation_service_pb2.DownloadArtifactRequest:
    """The message of one download.

    Raises:
        ValueError: the offset is negative or too large for the interface.
    """
    if not 0 <= offset < 1 << 64:
        raise ValueError(f"offset is {offset}; allowed are 0 to {(1 << 64) - 1}")
    return generation_service_pb2.DownloadArtifactRequest(
        artifact_id=artifact_id, offset_bytes=offset
    )
