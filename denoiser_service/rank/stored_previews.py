"""What a request's loop is heading for, stored for whoever draws previews of it."""

from collections import deque

import torch

from services.domain.stages import DenoiseRequest
from services.domain.tensor_ref import TensorRef
from services.model_ports.stages import DenoiserModel, DenoiserState
from services.observability.logs import get_logger
from services.tensor_store.tensor_store import TensorStore
from triptych.domain.errors import TriptychError

# Enough for the one that is being drawn and the next one, when steps are shorter than drawing.
_KEPT = 4

_log = get_logger(__name__)


class StoredPreviews:
    """Of one request. They are drawn in time or not at all: the oldest make room.

    Args:
        model: what denoises.
        store: where they go; None where another rank stores them.
        request: whose they are.
    """

    def __init__(
        self, model: DenoiserModel, store: TensorStore | None, request: DenoiseRequest
    ) -> None:
        self._model = model
        self._store = store
        self._tenant, self._id = request.tenant, request.request_id
        self._every = request.parameters.preview_every_steps
        self._kept: deque[TensorRef] = deque()

    def after_step(self, state: DenoiserState) -> TensorRef | None:
        """Stores one, if one is due; None as well if that fails, which harms nothing else."""
        step, store = state.completed_steps, self._store
        try:
            if store is not None and self._every and step % self._every == 0:
                return self._put(state, store)
        except TriptychError as error:
            _log.warning("preview dropped", request_id=self._id, step=step, cause=str(error))
        except torch.AcceleratorError:
            # Nothing can be computed in this process any more.
            raise
        # A defect in something that nobody needs must not cost the picture.
        except Exception:  # noqa: BLE001 - what it is cannot be known beforehand
            _log.exception("preview dropped", request_id=self._id, step=step)
        finally:
            state.forget_step()
        return None

    def release(self) -> None:
        """Releases those that nobody has drawn, of a request that nobody waits for any more."""
        while self._kept and self._store is not None:
            self._store.release(self._kept.popleft())

    def _put(self, state: DenoiserState, store: TensorStore) -> TensorRef:
        if len(self._kept) == _KEPT:
            store.release(self._kept.popleft())
        latents = {
            name: tensor.cpu() for name, tensor in self._model.finish(state.foreseen()).items()
        }
        ref = store.put(latents, tenant=self._tenant, request_id=self._id)
        self._kept.append(ref)
        return ref
