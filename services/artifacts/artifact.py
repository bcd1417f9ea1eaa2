"""What is known of a kept artifact without its bytes."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
ARTIFACT_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[0-9]{1,6})?")
MAX_DESCRIPTION_CHARS: Final = 16_384


class ArtifactKind(StrEnum):
    """What an artifact is to its tenant; the ids of one kind name nothing of the other."""

    RESULT = "result"
    UPLOAD = "upload"


@dataclass(frozen=True, slots=True)
class ArtifactKey:
    """Names one artifact of one tenant.

    Attributes:
        tenant: up to 64 letters, digits, hyphens and underscores.
        artifact_id: as long and of the same, and a number behind a dot where a request has several.
    """

    tenant: str
    kind: ArtifactKind
    artifact_id: str

    @property
    def names_something(self) -> bool:
        """Whether it can name an artifact at all; safe in a path if so."""
        return bool(TENANT.fullmatch(self.tenant) and ARTIFACT_ID.fullmatch(self.artifact_id))


class StoredArtifact(BaseModel):
    """The record of a kept artifact.

    Attributes:
        content_type: a MIME type.
        checksum_xxh3: XXH3-64 of the bytes.
        expires_at: seconds of the epoch; nobody gets it afterwards.
        description: what its writer says of it, for its readers.
        place_name: what the bytes are called where they are kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str
    kind: ArtifactKind
    artifact_id: str
    content_type: str
    size_bytes: Annotated[int, Field(ge=0)]
    checksum_xxh3: Annotated[int, Field(ge=0, lt=1 << 64)]
    expires_at: float
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARS)]
    place_name: str

    @property
    def key(self) -> ArtifactKey:
        """What it is named by."""
        return ArtifactKey(self.tenant, self.kind, self.artifact_id)
