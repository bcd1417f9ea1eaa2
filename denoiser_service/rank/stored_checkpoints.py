"""What a request's steps have made of it so far, stored for whoever goes on if this rank cannot."""

from collections.abc import Mapping

import torch

from denoiser_service.rank.acceleration.session import Session
from denoiser_service.rank.commands import Checkpoint
from services.domain.stages import DenoiseRequest
from services.domain.tensor_ref import TensorRef
from services.model_ports.stages import DenoiserState
from services.observability.logs import get_logger
from services.tensor_store.tensor_store import TensorStore
from triptych.domain.deadline import Deadline
from triptych.domain.errors import InvalidRequest, TriptychError
from triptych.domain.parallel import ParallelDegrees

_log = get_logger(__name__)


class StoredCheckpoints:
    """Of one request, this rank's parts.

    Every rank has the whole latents, and the first one stores them. What a cache keeps is of a
    rank's own tokens and branches: each stores its own.

    Args:
        components: the model's transformers by their names.
        store: where they go.
        request: whose they are.
        degrees: how its steps are spread over ranks.
        number: this rank's place among them.
        deadline: until when they may be wanted.
    """

    def __init__(
        self,
        components: Mapping[str, torch.nn.Module],
        store: TensorStore,
        request: DenoiseRequest,
        degrees: ParallelDegrees,
        number: int = 0,
        deadline: Deadline | None = None,
    ) -> None:
        self._components = components
        self._store = store
        self._identity = {"tenant": request.tenant, "request_id": request.request_id}
        self._degrees = degrees
        self._number = number
        self._deadline = deadline
        self._parts: dict[int, list[TensorRef]] = {}

    def save(
        self, state: DenoiserState, session: Session | None, kept: int | None = None
    ) -> Checkpoint:
        """Stores this rank's part, and releases those of earlier checkpoints but one.

        Args:
            state: the request between two steps.
            session: its caches.
            kept: after how many steps the other one was saved.

        Raises:
            TriptychError: it could not be stored; what was stored before still is.
        """
        step, part = state.completed_steps, None
        tensors = dict(state.save()) if self._number == 0 else {}
        if session is not None:
            tensors |= session.save(self._components)
        if tensors:
            part = self._store.put(tensors, **self._identity, deadline=self._deadline)
            self._parts.setdefault(step, []).append(part)
        for earlier in [saved for saved in self._parts if saved not in (step, kept)]:
            self._release(earlier)
        return Checkpoint(step=step, degrees=self._degrees, parts=(part,))

    def restore(
        self, checkpoint: Checkpoint, state: DenoiserState, session: Session | None
    ) -> bool:
        """Goes on from a checkpoint of any rank's.

        Args:
            checkpoint: all parts of it.
            state: the request, prepared anew.
            session: its caches, still empty.

        Returns:
            Whether the caches are as they were. They are empty otherwise: the next step is
            computed, whatever they would have reused.

        Raises:
            InvalidRequest: it is none of this request.
            TriptychError: a part of it is gone.
        """
        first, *_ = parts = checkpoint.parts
        if first is None:
            raise InvalidRequest.of("checkpoint", "its first part holds no latents")
        with self._store.get(first, **self._identity) as tensors:
            state.restore(tensors)
        if state.completed_steps != checkpoint.step:
            raise InvalidRequest.of(
                "checkpoint",
                f"step is {checkpoint.step}; its tensors are of step {state.completed_steps}",
            )
        # Whoever wrote them may be gone: they are released by those who go on.
        ranks = self._degrees.ranks
        adopted = [part for part in parts[self._number :: ranks] if part is not None]
        self._parts.setdefault(checkpoint.step, []).extend(adopted)
        if session is None or checkpoint.step == 0:
            return True
        if (checkpoint.degrees, len(parts)) != (self._degrees, ranks):
            return session.restore(self._components, {})
        if (own := parts[self._number]) is None:
            return True
        with self._store.get(own, **self._identity) as tensors:
            return session.restore(self._components, tensors)

    def release(self) -> None:
        """Releases all of a request that needs none any more."""
        for step in list(self._parts):
            self._release(step)

    def _release(self, step: int) -> None:
        for part in self._parts.pop(step):
            try:
                self._store.release(part)
            except TriptychError as error:
                _log.warning("checkpoint not released, will expire", step=step, cause=str(error))
