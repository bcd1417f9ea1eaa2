"""Prompts to conditioning."""

import time

from services.domain.model import Stage
from services.domain.stages import Encoded, EncodeRequest, StageTiming
from services.model_api.stage_model import StageModel
from services.model_api.stages import EncoderModel
from services.tensor_store.tensor_store import TensorStore


class EncodeStage:
    """Encodes one request at a time. For one thread.

    Args:
        model: what encodes.
        store: where the conditioning goes.
    """

    def __init__(self, model: StageModel[EncoderModel], store: TensorStore) -> None:
        self._loaded = model
        self._model = model.model
        self._store = store

    def encode(self, request: EncodeRequest) -> Encoded:
        """Encodes and stores, for the caller to release; the time in the queue is left at 0.

        Raises:
            ModelNotFound: another model's request.
            InvalidRequest: outside the model's limits, or a prompt with more tokens than it reads.
            StoreFull: there is no room for the conditioning now.
        """
        self._loaded.check(request.parameters)
        began = time.perf_counter()
        # On the host, so that the time of a device that works on is not taken for transfer.
        conditioning = {
            name: tensor.cpu() for name, tensor in self._model.encode(request.parameters).items()
        }
        ran = time.perf_counter()
        ref = self._store.put(conditioning, tenant=request.tenant, request_id=request.request_id)
        timing = StageTiming(
            stage=Stage.ENCODER,
            queue_seconds=0.0,
            run_seconds=ran - began,
            transfer_seconds=time.perf_counter() - ran,
        )
        return Encoded(ref, timing)
