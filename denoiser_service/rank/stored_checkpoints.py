"""What a request's steps have made of it so far, stored for whoever goes on if this rank cannot."""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import torch

from denoiser_service.rank.acceleration.session import Session
from services.domain.checkpoint import Checkpoint, CheckpointPart
from services.domain.stages import DenoiseRequest
from services.domain.tensor_ref import TensorRef
from services.model_ports.stages import DenoiserState, Tensors
from services.observability.logs import get_logger
from services.tensor_store.tensor_store import TensorStore
from triptych.domain.deadline import Deadline
from triptych.domain.errors import InvalidRequest, TensorRefused, TriptychError
from triptych.domain.parallel import ParallelDegrees

_log = get_logger(__name__)
_Stored = tuple[TensorRef | None, float]


@dataclass(frozen=True, slots=True)
class _Writing:
    """What is being stored beside the steps.

    Attributes:
        step: how many were done.
        kept: see StoredCheckpoints.save.
        stored: this rank's part, once it is, and what that took.
    """

    step: int
    kept: int | None
    stored: Future[_Stored]


class StoredCheckpoints:
    """Of one request, this rank's parts.

    Every rank has the whole latents, and the first one stores them. What a cache keeps is of a
    rank's own tokens and branches: each stores its own.

    Args:
        components: the model's transformers by their names.
        store: where they go.
        writer: what writes beside the steps.
        request: whose they are.
        degrees: how its steps are spread over ranks.
        number: this rank's place among them.
        deadline: until when they may be wanted.
    """

    def __init__(
        self,
        components: Mapping[str, torch.nn.Module],
        store: TensorStore,
        writer: Executor,
        request: DenoiseRequest,
        degrees: ParallelDegrees,
        number: int = 0,
        deadline: Deadline | None = None,
    ) -> None:
        self._components = components
        self._store = store
        self._writer = writer
        self._identity = {"tenant": request.tenant, "request_id": request.request_id}
        self._degrees = degrees
        self._number = number
        self._deadline = deadline
        self._parts: dict[int, list[TensorRef]] = {}
        self._writing: _Writing | None = None

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
        part, seconds = self._put(self._tensors(state, session))
        for earlier in self._taken(state.completed_steps, part, kept):
            self._release(earlier)
        return self._checkpoint(state.completed_steps, part, seconds)

    def begin(self, state: DenoiserState, session: Session | None, kept: int | None = None) -> None:
        """Stores this rank's part beside the next steps, unless an earlier one still is.

        Args:
            state: the request between two steps; no later step changes what is stored.
            session: its caches.
            kept: see save.
        """
        if self._writing is None:
            stored = self._writer.submit(self._put, self._tensors(state, session))
            self._writing = _Writing(state.completed_steps, kept, stored)

    def news(self) -> tuple[Checkpoint, ...]:
        """What has been stored beside the steps since this was asked last, if anything has.

        Raises:
            torch.AcceleratorError: the device failed.
        """
        writing = self._writing
        if writing is None or not writing.stored.done():
            return ()
        self._writing = None
        error = writing.stored.exception()
        if isinstance(error, torch.AcceleratorError):
            # Nothing can be computed in this process any more.
            raise error
        if error is not None:
            # Even a defect: what may never be needed must not cost the request.
            _log.warning("not saved", step=writing.step, cause=repr(error), **self._identity)
            return ()
        part, seconds = writing.stored.result()
        for earlier in self._taken(writing.step, part, writing.kept):
            self._writer.submit(self._release, earlier)
        return (self._checkpoint(writing.step, part, seconds),)

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
            InvalidRequest, TensorRefused: it is none of this request.
            TriptychError: a part of it is gone.
        """
        self._check_scope(checkpoint)
        first = checkpoint.part(0)
        if first is None:
            raise InvalidRequest.of("checkpoint", "its first part holds no latents")
        with self._store.get(first, **self._identity) as tensors:
            state.restore(tensors)
        completed = checkpoint.completed_steps
        if state.completed_steps != completed:
            raise InvalidRequest.of(
                "checkpoint",
                f"completed_steps is {completed}; its tensors are of step {state.completed_steps}",
            )
        # Whoever wrote them may be gone: they are released by those who go on.
        ranks = self._degrees.ranks
        self._parts.setdefault(completed, []).extend(
            part.tensors for part in checkpoint.parts if part.rank % ranks == self._number
        )
        if session is None or completed == 0:
            return True
        if checkpoint.degrees != self._degrees:
            return session.restore(self._components, {})
        if (own := checkpoint.part(self._number)) is None:
            return True
        with self._store.get(own, **self._identity) as tensors:
            return session.restore(self._components, tensors)

    def release(self, kept: int | None = None) -> None:
        """Releases all of a request that is not here any more, but for one.

        Args:
            kept: after how many steps that one was saved.
        """
        if self._writing is not None:
            # Whatever is still being stored is released by whoever stores it.
            self._writing.stored.add_done_callback(self._discard)
            self._writing = None
        for step in self._parts.keys() - {kept}:
            self._release(self._parts.pop(step))

    def _check_scope(self, checkpoint: Checkpoint) -> None:
        """Raises TensorRefused unless all of it is what this request has stored."""
        own = tuple(self._identity.values())
        if any((part.tensors.tenant, part.tensors.request_id) != own for part in checkpoint.parts):
            raise TensorRefused("checkpoint: it belongs to another tenant or request")

    def _tensors(self, state: DenoiserState, session: Session | None) -> dict[str, torch.Tensor]:
        tensors = dict(state.save()) if self._number == 0 else {}
        return tensors if session is None else tensors | dict(session.save(self._components))

    def _put(self, tensors: Tensors) -> _Stored:
        if not tensors:
            return None, 0.0
        began = time.perf_counter()
        ref = self._store.put(tensors, **self._identity, deadline=self._deadline)
        return self._store.keep(ref), time.perf_counter() - began

    def _taken(self, step: int, part: TensorRef | None, kept: int | None) -> list[list[TensorRef]]:
        """Adds a part; gives those that nobody needs any more."""
        if part is not None:
            self._parts.setdefault(step, []).append(part)
        return [self._parts.pop(saved) for saved in list(self._parts) if saved not in (step, kept)]

    def _checkpoint(self, step: int, part: TensorRef | None, seconds: float) -> Checkpoint:
        parts = () if part is None else (CheckpointPart(self._number, part),)
        return Checkpoint(step, parts, self._degrees, seconds)

    def _discard(self, stored: Future[_Stored]) -> None:
        if not stored.cancelled() and stored.exception() is None:
            part, _ = stored.result()
            self._release([] if part is None else [part])

    def _release(self, parts: Iterable[TensorRef]) -> None:
        for part in parts:
            try:
                self._store.release(part)
            except TriptychError as error:
                _log.warning("checkpoint not released, will expire", cause=str(error))
