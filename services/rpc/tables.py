"""The nouns that only services have, each against its message; see triptych.codec."""

from typing import Any, Final

from google.protobuf.message import Message
from pydantic import ValidationError

from services.domain.checkpoint import Checkpoint, CheckpointPart
from services.domain.job_event import ArtifactChunk
from services.domain.stages import (
    Capacity,
    DecodeRequest,
    Denoised,
    DenoiseRequest,
    DrawPreviewRequest,
    Encoded,
    EncodedImage,
    EncodeImageRequest,
    EncodeRequest,
    PreviewLatents,
    PreviewPicture,
    RankGroupInfo,
)
from services.domain.store_control import StoreStats
from services.domain.tensor_ref import TensorRef, TensorSpec
from triptych.codec import tables as shared
from triptych.codec.choice import Choice
from triptych.codec.table import At, Table
from triptych.codec.values import Reading
from triptych.domain.element_type import ElementType
from triptych.domain.errors import TensorRefused
from triptych.domain.model import Component, LoadedModel
from triptych.domain.parallel import ParallelDegrees
from triptych.v1 import (
    denoiser_service_pb2,
    encoder_service_pb2,
    generation_service_pb2,
    stage_service_pb2,
    tensor_pb2,
    tensor_store_service_pb2,
    vae_service_pb2,
)


class _SealedTable(Table[TensorRef, tensor_pb2.TensorRef]):
    """References: whatever is wrong with the form of one, it is refused as a reference."""

    def take(self, message: Message, path: str, reading: Reading) -> TensorRef:
        """Checks the form of every field before anything else looks at it.

        Raises:
            TensorRefused: one is missing or malformed; the message names it, but not its value.
        """
        values = super().take(message, path, Reading(strict=False))
        try:
            return TensorRef.model_validate(values)
        except ValidationError as error:
            wrong = ", ".join(sorted({str(problem["loc"][0]) for problem in error.errors()}))
            where = path.removesuffix(".") or "reference"
            raise TensorRefused(f"{where}: malformed tensor reference ({wrong})") from error


def _unchecked(**values: Any) -> dict[str, Any]:  # noqa: ANN401 - of a TensorSpec
    known = values["element_type"] in list(ElementType)
    return values if known else values | {"element_type": None}


Table(TensorSpec, tensor_pb2.TensorSpec, build=_unchecked)
REFS: Final = _SealedTable(TensorRef, tensor_pb2.TensorRef, build=dict)

# A refusal names a field as the client's request does.
_PARAMETERS: Final = At("parameters", root=True)

ENCODE_REQUESTS: Final = Table(
    EncodeRequest,
    encoder_service_pb2.EncodeRequest,
    at={"parameters": _PARAMETERS},
    apart={"images": "their bytes travel in the parameters' images"},
)
ENCODED: Final = Table(Encoded, encoder_service_pb2.EncodeResponse)
ENCODE_IMAGE_REQUESTS: Final = Table(
    EncodeImageRequest,
    vae_service_pb2.EncodeImageRequest,
    at={"parameters": _PARAMETERS, "index": "image_index", "image": "image.data"},
    untold={
        "image.upload_id": "an upload is known to the gateway alone",
        "image.description": "the parameters have it",
    },
)
ENCODED_IMAGES: Final = Table(EncodedImage, vae_service_pb2.EncodeImageResponse)
Table(CheckpointPart, denoiser_service_pb2.CheckpointPart)
CHECKPOINTS: Final = Table(
    Checkpoint, denoiser_service_pb2.Checkpoint, at={"degrees": "parallel_degrees"}
)
DENOISE_REQUESTS: Final = Table(
    DenoiseRequest,
    denoiser_service_pb2.DenoiseRequest,
    at={"parameters": _PARAMETERS},
    untold=dict.fromkeys(("scheduling", "checkpoint_every_steps"), "refused: not served"),
)
DENOISED: Final = Table(
    Denoised, denoiser_service_pb2.DenoisedLatents, at={"degrees": "parallel_degrees"}
)
PREVIEW_LATENTS: Final = Table(PreviewLatents, denoiser_service_pb2.PreviewLatents)
DENOISE_EVENTS: Final = Choice(
    denoiser_service_pb2.DenoiseResponse,
    "event",
    {
        "started": shared.STARTED,
        "step_completed": shared.STEPS,
        "preview": PREVIEW_LATENTS,
        "checkpoint": CHECKPOINTS,
        "denoised": DENOISED,
    },
    {"queued": "positions are not told yet"},
)
DECODE_REQUESTS: Final = Table(
    DecodeRequest, vae_service_pb2.DecodeRequest, at={"parameters": _PARAMETERS}
)
DRAW_PREVIEW_REQUESTS: Final = Table(
    DrawPreviewRequest, vae_service_pb2.DrawPreviewRequest, at={"parameters": _PARAMETERS}
)
PREVIEW_PICTURES: Final = Table(PreviewPicture, vae_service_pb2.DrawPreviewResponse)
ARTIFACT_CHUNKS: Final = Table(ArtifactChunk, generation_service_pb2.ArtifactChunk)

Table(Component, stage_service_pb2.Component)
Table(LoadedModel, stage_service_pb2.LoadedModel)
Table(
    ParallelDegrees,
    stage_service_pb2.RankGroup,
    at={"ulysses": "ulysses_degree", "ring": "ring_degree", "cfg": "cfg_degree"},
    untold={"*": "the rank group has the rest"},
)
Table(RankGroupInfo, stage_service_pb2.RankGroup)
CAPACITIES: Final = Table(Capacity, stage_service_pb2.GetCapacityResponse)
STORE_STATS: Final = Table(
    StoreStats, tensor_store_service_pb2.StatResponse, at={"identity": "tensor_store"}
)
