"""Latents to media."""

import time
from dataclasses import dataclass

import xxhash

from services.domain.errors import TriptychError
from services.domain.model import Stage
from services.domain.stages import Artifact, DecodeRequest, StageTiming
from services.model_api.stage_model import StageModel
from services.model_api.stages import VaeModel
from services.tensor_store.tensor_store import TensorStore
from vae_service.media import encode_media


@dataclass(frozen=True, slots=True)
class DecodedMedia:
    """An artifact, what is known of it, and where the time went."""

    artifact: Artifact
    data: bytes
    timing: StageTiming


class DecodeStage:
    """Decodes one request at a time. For one thread.

    Args:
        model: what decodes.
        store: where the latents come from.
    """

    def __init__(self, model: StageModel[VaeModel], store: TensorStore) -> None:
        self._loaded = model
        self._model = model.model
        self._store = store

    def decode(self, request: DecodeRequest) -> DecodedMedia:
        """Decodes and compresses; the time in the queue is left at 0.

        A request has one artifact, which bears its id: repeating a request gives the same one.

        Raises:
            ModelNotFound: another model's request.
            InvalidRequest: outside the model's limits.
            TensorNotFound: the latents were released or expired.
        """
        parameters = request.parameters
        self._loaded.check(parameters)
        began = time.perf_counter()
        with self._store.get(
            request.latents, tenant=request.tenant, request_id=request.request_id
        ) as latents:
            read = time.perf_counter()
            image = self._model.decode(parameters, latents)
        if image.size != (parameters.width, parameters.height):
            raise TriptychError(
                f"the VAE drew {image.size[0]} x {image.size[1]} pixels instead of"
                f" {parameters.width} x {parameters.height}"
            )
        data = encode_media(image, parameters.media_format)
        artifact = Artifact(
            artifact_id=request.request_id,
            media_format=parameters.media_format,
            width=parameters.width,
            height=parameters.height,
            num_frames=1,
            size_bytes=len(data),
            checksum_xxh3=xxhash.xxh3_64_intdigest(data),
        )
        timing = StageTiming(
            stage=Stage.VAE,
            queue_seconds=0.0,
            run_seconds=time.perf_counter() - read,
            transfer_seconds=read - began,
        )
        return DecodedMedia(artifact, data, timing)
