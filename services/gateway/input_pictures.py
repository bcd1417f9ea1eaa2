"""The pictures that jobs begin with, kept for as long as the jobs may need them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Final

from services.artifacts.artifact import ArtifactKey, ArtifactKind
from services.gateway.access import Tenant
from services.gateway.artifact_calls import ArtifactCalls
from services.gateway.received_images import ReceivedImage
from triptych.domain.input_image import ImageDescription

_CONTENT_TYPE: Final = "application/octet-stream"


class InputPictures:
    """A job's own copies: an upload may expire, or be deleted, before it is the job's turn.

    Args:
        calls: the artifact store's.
    """

    def __init__(self, calls: ArtifactCalls) -> None:
        self._calls = calls

    async def keep(
        self,
        tenant: Tenant,
        job_id: str,
        described: Sequence[ImageDescription],
        pictures: Sequence[bytes],
        ttl_seconds: float,
    ) -> tuple[ArtifactKey, ...]:
        """Keeps all of them or none.

        Args:
            tenant: whose job it is.
            job_id: the job's.
            described: what their headers say.
            pictures: their bytes.
            ttl_seconds: how long they may be needed.

        Raises:
            QuotaExceeded, ResourceExhausted: no room for them now.
            Unavailable: the store cannot be reached.
        """
        limits = self._calls.limits(tenant, result=False)
        kept: list[ArtifactKey] = []
        try:
            for number, (description, data) in enumerate(zip(described, pictures, strict=True)):
                key = ArtifactKey(tenant.name, ArtifactKind.UPLOAD, f"{job_id}.{number}")
                writing = self._calls.begin(key, ttl_seconds, limits)
                try:
                    await writing.write(data)
                    await writing.commit(_CONTENT_TYPE, json.dumps(asdict(description)))
                    kept.append(key)
                finally:
                    writing.discard()
        except BaseException:
            # Also if it is cancelled: nobody else knows of them.
            self.forget(kept)
            raise
        return tuple(kept)

    def received(
        self, described: Sequence[ImageDescription], keys: Sequence[ArtifactKey]
    ) -> tuple[ReceivedImage, ...]:
        """A job's pictures, as its stages get them; loading may raise ArtifactNotFound."""
        return tuple(
            ReceivedImage(description, partial(self._calls.whole, key))
            for description, key in zip(described, keys, strict=True)
        )

    def forget(self, keys: Sequence[ArtifactKey]) -> None:
        """Deletes them soon."""
        for key in keys:
            self._calls.delete_soon(key)
