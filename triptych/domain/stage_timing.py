"""Where the time of a request went."""

from dataclasses import dataclass

from triptych.domain.model import Stage
from triptych.domain.open_enum import OpenEnum


class StageTask(OpenEnum):
    """What a stage did for a request; the VAE works twice for editing models."""

    ENCODE_PROMPT = "encode_prompt"
    ENCODE_IMAGES = "encode_images"
    DENOISE = "denoise"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class StageTiming:
    """Where the time of one stage's task went, in seconds.

    Attributes:
        queue_seconds: waiting for the stage to begin this request.
        run_seconds: inside the stage's own computation.
        transfer_seconds: writing and reading tensors.
        total_seconds: as seen by the gateway, everything included; 0 until the gateway fills it in.
        writing_seconds: the part of run_seconds in which a language model wrote.
    """

    stage: Stage
    task: StageTask
    queue_seconds: float
    run_seconds: float
    transfer_seconds: float
    total_seconds: float = 0.0
    writing_seconds: float = 0.0
