"""The limits that docs/security.md tells are those that hold."""

import re
from pathlib import Path

from denoiser_service.rank.channel import MAX_FRAME_BYTES
from denoiser_service.rank.handshake import MAX_HANDSHAKE_BYTES
from encoder_service.settings import EncoderSettings
from services.artifacts.opening import DEFAULT_MEMORY_BYTES
from services.domain.settings import MAX_SECONDS
from services.domain.tensor_ref import MAX_INLINE_BYTES, MAX_RANK, MAX_TENSORS
from services.gateway.received_images import MAX_IMAGES
from services.gateway.settings import GatewaySettings
from services.pictures.input_picture import MAX_BYTES, MAX_PIXELS
from services.rpc.server import MAX_MESSAGE_BYTES
from services.rpc.stage_host import MAX_STAGE_MESSAGE_BYTES
from triptych.domain.generation import MAX_ASPECT_RATIO, MAX_SEED
from vae_service.replica import MAX_QUEUED_PREVIEWS

PAGE = Path(__file__).parents[3] / "docs" / "security.md"


def test_the_table_of_limits_is_true() -> None:
    page = PAGE.read_text().split("## Limits", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| (.+?) \| (\d+) \|", page, re.MULTILINE)
    gateway, stage = GatewaySettings.model_fields, EncoderSettings.model_fields
    assert {name: int(limit) for name, limit in rows} == {
        "a message to the gateway": MAX_MESSAGE_BYTES,
        "a message to a stage": MAX_STAGE_MESSAGE_BYTES,
        "a picture, inside a request or uploaded": MAX_BYTES,
        "a picture": MAX_PIXELS,
        "a picture's longer side": MAX_ASPECT_RATIO,
        "pictures in a request": MAX_IMAGES,
        "artifacts that a gateway keeps in memory, unless told otherwise": DEFAULT_MEMORY_BYTES,
        "tensors behind a reference": MAX_TENSORS,
        "tensors inside a reference": MAX_INLINE_BYTES,
        "dimensions of a tensor": MAX_RANK,
        "a seed": MAX_SEED,
        "calls at work in a process, unless told otherwise": stage["max_concurrent_calls"].default,
        "requests that wait in a stage, unless told otherwise": stage[
            "max_queued_requests"
        ].default,
        "previews that wait to be drawn": MAX_QUEUED_PREVIEWS,
        "a frame between a denoiser and a rank": MAX_FRAME_BYTES,
        "a rank's first frame, before it has shown that it knows the secret": MAX_HANDSHAKE_BYTES,
        "any time in the settings": MAX_SECONDS,
        "a deadline, unless told otherwise": gateway["max_deadline_seconds"].default,
    }
