"""Prompts and pictures to conditioning."""

import io
import time
from dataclasses import replace
from typing import Final

from PIL import Image

from services.domain.stages import Encoded, EncodeRequest
from services.loaded_models.conditioning_encoder import ENCODES_ALL, ConditioningEncoder
from services.loaded_models.stage_model import StageModel
from services.model_ports.stages import EncoderModel, Images, PromptWriter
from services.pictures.input_picture import decode_pictures, describe_picture
from services.tensor_store.tensor_store import TensorStore
from triptych.domain.deadline import Deadline
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.model import Stage
from triptych.domain.stage_timing import StageTask, StageTiming


def _blank() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (256, 256), "grey").save(written, "PNG")
    return written.getvalue()


_BLANK: Final = _blank()


class EncodeStage:
    """Encodes one request at a time. For one thread.

    Args:
        model: what encodes.
        store: where the conditioning goes.
        encoder: encodes, or remembers what it is asked to encode.
    """

    def __init__(
        self,
        model: StageModel[EncoderModel],
        store: TensorStore,
        encoder: ConditioningEncoder = ENCODES_ALL,
    ) -> None:
        self._loaded = model
        self._model = model.model
        self._store = store
        self._encoder = encoder

    def encode(self, request: EncodeRequest, deadline: Deadline | None = None) -> Encoded:
        """Encodes and stores, for the caller to release; the time in the queue is left at 0.

        Args:
            request: what to encode.
            deadline: until when the conditioning may be wanted.

        Raises:
            ModelNotFound: another model's request.
            InvalidRequest: outside the model's limits, a prompt with more tokens than it reads, or
                a picture that cannot be decoded.
            StoreFull: there is no room for the conditioning now.
        """
        parameters = request.parameters
        self._loaded.check(parameters)
        began = time.perf_counter()
        images = decode_pictures(parameters.images, request.images)
        looked = time.perf_counter()
        written = self._write_prompt(parameters, images)
        wrote = time.perf_counter()
        if written is not None:
            parameters = replace(parameters, prompt=written)
        encodings = self._model.encodings(parameters, images)
        pictures = dict(enumerate(request.images))
        conditioning, reuse = self._encoder.encode(encodings, request.tenant, pictures)
        ran = time.perf_counter()
        identity = {"tenant": request.tenant, "request_id": request.request_id}
        ref = self._store.put(conditioning, **identity, deadline=deadline)
        timing = StageTiming(
            stage=Stage.ENCODER,
            task=StageTask.ENCODE_PROMPT,
            queue_seconds=0.0,
            run_seconds=ran - began,
            transfer_seconds=time.perf_counter() - ran,
            writing_seconds=0.0 if written is None else wrote - looked,
        )
        return Encoded(ref, timing, written, reuse)

    def warm_up(self) -> None:
        """Encodes what a default request would have encoded; keeps nothing.

        Raises:
            InvalidRequest: the model takes no such request.
        """
        served = self._loaded.loaded.model
        described = [describe_picture("images", _BLANK)] * served.capabilities.min_images
        request = GenerationRequest(prompt="a picture", images=tuple(described))
        parameters = resolve(request, served, draw_seed=lambda: 0)
        pictures = decode_pictures(parameters.images, (_BLANK,) * len(described))
        for encoding in self._model.encodings(parameters, pictures):
            encoding.tensors()

    def _write_prompt(self, parameters: GenerationParameters, images: Images) -> str | None:
        if isinstance(self._model, PromptWriter):
            return self._model.write_prompt(parameters, images)
        return None
