"""Writes artifacts until it is killed; prints the id of each that it has committed."""

import itertools
import sys

from services.artifacts.artifact import ArtifactKey, ArtifactKind
from services.artifacts.opening import open_artifact_store

CHUNKS = 8


def content(artifact_id: str) -> bytes:
    return artifact_id.encode().ljust(5000, b".") * CHUNKS


def write(url: str, name: str) -> None:
    store = open_artifact_store(url)
    for number in itertools.count():
        artifact_id = f"{name}-{number}"
        key = ArtifactKey("tenant", ArtifactKind.RESULT, artifact_id)
        with store.begin(key, ttl_seconds=1000) as writer:
            data = content(artifact_id)
            for start in range(0, len(data), len(data) // CHUNKS):
                writer.write(data[start : start + len(data) // CHUNKS])
            writer.commit("image/png")
        sys.stdout.write(f"{artifact_id}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    write(*sys.argv[1:])
