"""An artifact that was drawn before, downloaded again."""

import os
from dataclasses import dataclass
from pathlib import Path

import xxhash
from google.protobuf.message import Message

from triptych.codec.tables import ARTIFACTS
from triptych.domain.generation_result import Artifact
from triptych.errors import ArtifactCorruptedError, TriptychError
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
    """The state between the messages of one download, of one stream or of several.

    Args:
        artifact_id: what is downloaded.
        offset: where it begins.

    Raises:
        ValueError: the offset is negative or too large for the interface.
    """

    def __init__(self, artifact_id: str, offset: int) -> None:
        if not 0 <= offset < 1 << 64:
            raise ValueError(f"offset is {offset}; allowed are 0 to {(1 << 64) - 1}")
        self._artifact_id = artifact_id
        self._offset = offset
        self._data = bytearray()
        self._artifact: Artifact | None = None

    @property
    def position(self) -> int:
        """The byte that is expected next."""
        return self._offset + len(self._data)

    @property
    def has_ended(self) -> bool:
        """Whether all bytes are here."""
        return self._artifact is not None and self.position == self._artifact.size_bytes

    def request(self) -> tuple[str, Message]:
        """The method that gives the bytes that are not here yet, and what it is asked."""
        asked = generation_service_pb2.DownloadArtifactRequest(
            artifact_id=self._artifact_id, offset_bytes=self.position
        )
        return "DownloadArtifact", asked

    def break_off(self, error: TriptychError) -> None:
        """Called when the stream broke; another one can always go on."""

    def read(self, response: generation_service_pb2.DownloadArtifactResponse) -> None:
        """Takes one message.

        Raises:
            ArtifactCorruptedError: bytes are missing or surplus, or another artifact's.
        """
        chunk = response.chunk
        if chunk.HasField("artifact"):
            self._describe(ARTIFACTS.read(chunk.artifact, strict=False))
        if chunk.offset_bytes != self.position:
            raise ArtifactCorruptedError(
                f"the artifact continued at byte {chunk.offset_bytes}; expected was {self.position}"
            )
        self._data += chunk.data

    def _describe(self, artifact: Artifact) -> None:
        known = self._artifact or artifact
        if (known.size_bytes, known.checksum_xxh3) != (artifact.size_bytes, artifact.checksum_xxh3):
            raise ArtifactCorruptedError("the artifact changed while it was downloaded")
        self._artifact = artifact

    def finish(self) -> Download:
        """Called when the stream has ended without an error.

        Raises:
            ArtifactCorruptedError: the bytes are not those that were announced.
        """
        artifact, data = self._artifact, bytes(self._data)
        if artifact is None:
            raise ArtifactCorruptedError("the cluster sent bytes without saying of what")
        if self.position != artifact.size_bytes:
            raise ArtifactCorruptedError(
                f"the artifact ended at byte {self.position}; announced were {artifact.size_bytes}"
            )
        checksum = artifact.checksum_xxh3 if self._offset else xxhash.xxh3_64_intdigest(data)
        if checksum != artifact.checksum_xxh3:
            raise ArtifactCorruptedError(
                f"the artifact arrived with checksum {checksum:016x};"
                f" announced was {artifact.checksum_xxh3:016x}"
            )
        return Download(artifact, self._offset, data)
