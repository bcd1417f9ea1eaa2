"""Pictures to latents, and latents to media."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import xxhash
from PIL import Image

from services.domain.stages import DecodeRequest, EncodedImage, EncodeImageRequest
from services.loaded_models.conditioning_encoder import ENCODES_ALL, ConditioningEncoder
from services.loaded_models.stage_model import StageModel
from services.model_ports.stages import ImageEncodingVae, VaeModel
from services.pictures.input_picture import decode_described
from services.tensor_store.tensor_store import TensorStore
from triptych.domain.deadline import Deadline
from triptych.domain.errors import TriptychError, Unsupported
from triptych.domain.generation import GenerationParameters
from triptych.domain.generation_result import Artifact
from triptych.domain.model import Stage
from triptych.domain.stage_timing import StageTask, StageTiming
from vae_service.media import encode_media


@dataclass(frozen=True, slots=True)
class DecodedMedia:
    """An artifact, what is known of it, and where the time went."""

    artifact: Artifact
    data: bytes
    timing: StageTiming


class VaeStage:
    """Encodes or decodes one request at a time. For one thread.

    Args:
        model: what computes.
        store: where latents come from and go to.
        tile_size: side in pixels of the tiles that the model works in; 0 if it works in none.
        encoder: encodes, or remembers what it is asked to encode.
    """

    def __init__(
        self,
        model: StageModel[VaeModel],
        store: TensorStore,
        tile_size: int = 0,
        encoder: ConditioningEncoder = ENCODES_ALL,
    ) -> None:
        self._loaded = model
        self._model = model.model
        self._store = store
        self._tile_size = tile_size
        self._encoder = encoder

    def encode_image(
        self, request: EncodeImageRequest, deadline: Deadline | None = None
    ) -> EncodedImage:
        """Encodes and stores, for the caller to release; the time in the queue is left at 0.

        Args:
            request: what to encode.
            deadline: until when the latents may be wanted.

        Raises:
            ModelNotFound: another model's request.
            Unsupported: this VAE encodes no pictures, or the request has no such picture.
            InvalidRequest: outside the model's limits, or a picture that cannot be decoded.
            StoreFull: there is no room for the latents now.
        """
        parameters, number = request.parameters, request.index
        self._loaded.check(parameters)
        if not isinstance(self._model, ImageEncodingVae):
            raise Unsupported(f"images: the VAE of {parameters.model} encodes none")
        if number >= len(parameters.images):
            raise Unsupported(f"image_index: is {number}; images are {len(parameters.images)}")
        began = time.perf_counter()
        image = decode_described(number, parameters.images[number], request.image)
        encoding = self._model.image_encoding(parameters, number, image)
        latents, reuse = self._encoder.encode((encoding,), request.tenant, {number: request.image})
        ran = time.perf_counter()
        identity = {"tenant": request.tenant, "request_id": request.request_id}
        ref = self._store.put(latents, **identity, deadline=deadline)
        timing = StageTiming(
            stage=Stage.VAE,
            task=StageTask.ENCODE_IMAGES,
            queue_seconds=0.0,
            run_seconds=ran - began,
            transfer_seconds=time.perf_counter() - ran,
        )
        return EncodedImage(ref, timing, reuse)

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
            pictures = self._model.decode(parameters, latents)
        _check_pictures(parameters, pictures)
        frame_rate = None if parameters.options is None else parameters.options.frame_rate
        data = encode_media(pictures, parameters.media_format, frame_rate, parameters.output)
        artifact = Artifact(
            artifact_id=request.request_id,
            media_format=parameters.media_format,
            width=parameters.width,
            height=parameters.height,
            num_frames=len(pictures),
            size_bytes=len(data),
            checksum_xxh3=xxhash.xxh3_64_intdigest(data),
            tile_size=self._tile_size,
            seed=parameters.seed,
        )
        timing = StageTiming(
            stage=Stage.VAE,
            task=StageTask.DECODE,
            queue_seconds=0.0,
            run_seconds=time.perf_counter() - read,
            transfer_seconds=read - began,
        )
        return DecodedMedia(artifact, data, timing)


def _check_pictures(parameters: GenerationParameters, pictures: Sequence[Image.Image]) -> None:
    asked = [(parameters.width, parameters.height)] * parameters.pictures
    drawn = [picture.size for picture in pictures]
    if drawn != asked:
        raise TriptychError(
            f"the VAE drew {len(drawn)} pictures of {sorted(set(drawn))} pixels instead of"
            f" {len(asked)} of {parameters.width} x {parameters.height}"
        )
