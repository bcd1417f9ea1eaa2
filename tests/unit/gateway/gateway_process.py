"""A gateway over scripted stages in a process of its own, so that its memory can be looked at."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.observability.logs import configure
from tests.unit.domain.examples import CAPABILITIES
from tests.unit.gateway.running_gateway import running_gateway


class Forgetful(list[Any]):
    """Remembers nothing."""

    def append(self, request: Any) -> None:
        pass


async def serve(directory: Path) -> None:
    told = {
        "artifacts": "memory:?quota_bytes=64MiB",
        "max_request_bytes": "32MiB",
        "picture_transit_bytes": "32MiB",
    }
    async with running_gateway(directory, patience_seconds=600, **told) as gateway:
        editing = replace(CAPABILITIES, min_images=1, max_images=2)
        # Which would keep every picture that they are given.
        gateway.cluster.encoder.requests = Forgetful()
        gateway.cluster.vae.image_requests = Forgetful()
        gateway.cluster.limit(editing)
        await gateway.until_the_model_is(editing)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    # To stderr, which the test does not read.
    configure("gateway", "error", "json")
    asyncio.run(serve(Path(sys.argv[1])))
