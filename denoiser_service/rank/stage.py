"""The denoising loop of many requests, one step at a time."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import xxhash

from denoiser_service.rank.acceleration.session import Session, open_session
from denoiser_service.rank.commands import (
    Aborted,
    Finished,
    Prepared,
    Saved,
    Stepped,
)
from denoiser_service.rank.held_bytes import held_bytes
from denoiser_service.rank.joint_forward import Answers, Forward, Unanswered
from denoiser_service.rank.parallel.mesh import RankMesh
from denoiser_service.rank.parallel.model import ParallelModel
from denoiser_service.rank.stored_checkpoints import StoredCheckpoints
from denoiser_service.rank.stored_previews import StoredPreviews
from services.domain.checkpoint import Checkpoint
from services.domain.stages import DenoiseRequest
from services.loaded_models.stage_model import StageModel
from services.model_ports.forwards import Rows
from services.model_ports.stages import (
    BatchingDenoiserModel,
    CachingDenoiserModel,
    CachingState,
    DenoiserModel,
    DenoiserState,
    Tensors,
    image_latents_name,
)
from services.tensor_store.tensor_store import TensorStore
from triptych.domain.acceleration import NoCache
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.deadline import Deadline
from triptych.domain.errors import InvalidRequest, NotFound, TriptychError
from triptych.domain.generation import GenerationParameters
from triptych.domain.parallel import ONE_RANK, ParallelDegrees


@dataclass(slots=True)
class _Running:
    request: DenoiseRequest
    state: DenoiserState
    session: Session | None
    previews: StoredPreviews
    checkpoints: StoredCheckpoints
    shares_steps: bool
    deadline: Deadline | None
    held_bytes: int = 0

    def count(self, decisions: Sequence[BranchDecision] = ()) -> int:
        """Counts what is held now; what a step reused altogether, it did not add to."""
        if not decisions or not all(decision.reused for decision in decisions):
            self.held_bytes = held_bytes(self.state, self.session)
        return self.held_bytes


class DenoiseStage:
    """Holds the state of every request between prepare and finish. For one thread.

    A request that fails at anything leaves nothing behind, and the others untouched.

    Args:
        model: what denoises.
        store: where the conditioning comes from and the latents go.
        stores: whether latents go there; of ranks that work together, only one stores them.
        mesh: the ranks that make every step together; each of them is told the same.
        number: this one's place among them.

    Attributes:
        rows: how forwards of several requests become one; None if every step is taken alone.

    Raises:
        ConfigurationError: the model's steps cannot be shared by these ranks.
    """

    def __init__(
        self,
        model: StageModel[DenoiserModel],
        store: TensorStore,
        *,
        stores: bool = True,
        mesh: RankMesh | None = None,
        number: int = 0,
    ) -> None:
        self._loaded = model
        self._number = number
        self._writer = ThreadPoolExecutor(1, "checkpoints")
        self._stores = stores
        self._model = model.model
        self._store = store
        self._running: dict[str, _Running] = {}
        self.rows: Rows | None = None
        if isinstance(model.model, BatchingDenoiserModel):
            self.rows = model.model.rows
        self._parallel = None if mesh is None else ParallelModel(model, mesh)

    def prepare(
        self,
        request: DenoiseRequest,
        deadline: Deadline | None = None,
        *,
        shares_steps: bool = False,
        resume: Checkpoint | None = None,
    ) -> Prepared:
        """Takes a request in; its conditioning may be released from then on.

        Args:
            request: what to denoise.
            deadline: until when its latents may be wanted.
            shares_steps: whether it may take its steps together with other requests.
            resume: what to go on from; None to begin.

        Raises:
            TriptychError: it is here already, its tensors are gone, or this model cannot do it.
        """
        if request.place in self._running:
            raise TriptychError(f"request {request.place} is being denoised already")
        self._loaded.check(request.parameters)
        began = time.perf_counter()
        with ExitStack() as stored:
            conditioning = self._read(request, stored)
            read = time.perf_counter()
            state = self._model.prepare(request.parameters, conditioning)
        session = self._accelerate(request.parameters, state)
        previews = StoredPreviews(self._model, self._store if self._stores else None, request)
        degrees = self._degrees(state)
        checkpoints = StoredCheckpoints(
            *(self._model.components, self._store, self._writer, request),
            degrees=degrees,
            number=self._number,
            deadline=deadline,
        )
        restored = resume is None or checkpoints.restore(resume, state, session)
        running = _Running(request, state, session, previews, checkpoints, shares_steps, deadline)
        prepared = Prepared(
            request_id=request.place,
            total_steps=state.total_steps,
            run_seconds=time.perf_counter() - read,
            transfer_seconds=read - began,
            held_bytes=running.count(),
            batch_key=self._batch_key(running),
            degrees=degrees,
            completed_steps=state.completed_steps,
            recomputes=not restored,
        )
        # Last, as in a step: looking ahead for what can be shared may fail, too.
        self._running[request.place] = running
        return prepared

    def _degrees(self, state: DenoiserState) -> ParallelDegrees:
        """How a request's steps are spread."""
        if self._parallel is None:
            return ONE_RANK
        return self._parallel.mesh_for(cast("CachingState", state)).degrees

    def _read(self, request: DenoiseRequest, stored: ExitStack) -> Tensors:
        """What was made of the prompt and of the pictures, readable until `stored` is left."""
        request.check_images()
        identity = {"tenant": request.tenant, "request_id": request.request_id}
        conditioning = dict(stored.enter_context(self._store.get(request.conditioning, **identity)))
        for number, ref in enumerate(request.image_latents):
            latents = stored.enter_context(self._store.get(ref, **identity))
            if latents.keys() != {"latents"}:
                held = ", ".join(sorted(latents))
                raise InvalidRequest.of(f"image_latents[{number}]", f"hold {held}")
            conditioning[image_latents_name(number)] = latents["latents"]
        return conditioning

    def _accelerate(self, parameters: GenerationParameters, state: DenoiserState) -> Session | None:
        """Puts a request's caches, and its ranks, between its loop and the transformer."""
        if self._parallel is not None:
            return self._parallel.accelerate(parameters.cache, cast("CachingState", state))
        if isinstance(parameters.cache, NoCache):
            return None
        if not isinstance(self._model, CachingDenoiserModel):
            raise TriptychError(
                f"cache: is {parameters.cache.kind}; this model has no blocks to skip"
            )
        caching = cast("CachingState", state)
        session = open_session(self._model, parameters.cache, caching.steps_by_component)
        caching.acceleration = session
        return session

    def step(self, request_id: str) -> Stepped:
        """Advances a request by one step.

        Raises:
            NotFound: no such request is here.
            TriptychError: all its steps are done.
        """
        running = self._take(request_id)
        state = running.state
        if state.completed_steps == state.total_steps:
            raise TriptychError(
                f"request {request_id} has done all of its {state.total_steps} steps"
            )
        sigma, session = state.sigma, running.session
        if session is not None:
            session.last_step = state.completed_steps == state.total_steps - 1
        began = time.perf_counter()
        self._model.step(state)
        seconds = time.perf_counter() - began
        decisions = _decisions_of(session)
        stepped = Stepped(
            request_id=request_id,
            step=state.completed_steps,
            total_steps=state.total_steps,
            sigma=sigma,
            seconds=seconds,
            decisions=decisions,
            # Before the bytes are counted: it lets go of what it was made of.
            preview=running.previews.after_step(state),
            held_bytes=running.count(decisions),
            batch_key=self._batch_key(running),
            saved=running.checkpoints.news(),
        )
        self._running[request_id] = running
        return stepped

    def step_with(self, request_id: str, answers: Answers) -> Stepped | Forward:
        """A step for which somebody else computes what the forwards give.

        Args:
            request_id: which; one with a cache computes its forwards itself.
            answers: what is known of them.

        Returns:
            The first forward that is not known, with the request as it was; or as `step`.
        """
        running = self._running.get(request_id)
        if running is None or running.session is not None:
            return self.step(request_id)
        try:
            with _going_through(answers, running.state):
                return self.step(request_id)
        except Unanswered as unanswered:
            self._running[request_id] = running
            return unanswered.forward

    def _batch_key(self, running: _Running) -> str | None:
        state = running.state
        if self.rows is None or running.session is not None or not running.shares_steps:
            return None
        if state.completed_steps == state.total_steps:
            return None
        try:
            with _going_through(Answers(), state):
                self._model.step(state)
        except Unanswered as unanswered:
            parameters = running.request.parameters
            kind = unanswered.forward.kind(self.rows)
            # Rows of unequal sizes would wait for the largest.
            return f"{parameters.width}x{parameters.height} {kind}"
        raise TriptychError("a step without a forward cannot be taken together with others")

    def save(self, request_id: str, kept: int | None = None, *, wait: bool = True) -> Saved:
        """Stores what a request's steps have made of it, this rank's part; it goes on as before.

        Args:
            request_id: which.
            kept: the step of an earlier checkpoint that is kept; others are released.
            wait: whether to return once it is stored, rather than say so with a later step.

        Raises:
            NotFound: no such request is here.
            TriptychError: it could not be stored; the request is still here.
        """
        if request_id not in self._running:
            raise _not_here(request_id)
        running, began = self._running[request_id], time.perf_counter()
        checkpoints = running.checkpoints
        checkpoint = None
        if wait:
            checkpoint = checkpoints.save(running.state, running.session, kept)
        else:
            checkpoints.begin(running.state, running.session, kept)
        seconds = time.perf_counter() - began
        return Saved(request_id=request_id, checkpoint=checkpoint, transfer_seconds=seconds)

    def finish(self, request_id: str, kept: int | None = None) -> Finished:
        """Stores a request's latents, for the caller to release, and forgets it.

        Args:
            request_id: which.
            kept: see abort.

        Raises:
            NotFound: no such request is here.
            TriptychError: steps are left, or the latents are not finite.
        """
        running = self._take(request_id)
        request, state = running.request, running.state
        if state.completed_steps < state.total_steps:
            raise TriptychError(
                f"request {request_id} has done {state.completed_steps} of {state.total_steps}"
                " steps"
            )
        began = time.perf_counter()
        latents = {name: tensor.cpu() for name, tensor in self._model.finish(state).items()}
        _check_finite(request_id, latents)
        checksum = _checksum(latents)
        ran = time.perf_counter()
        ref = None
        if self._stores:
            identity = {"tenant": request.tenant, "request_id": request.request_id}
            ref = self._store.put(latents, **identity, deadline=running.deadline)
        running.checkpoints.release(kept)
        return Finished(
            request_id=request_id,
            latents=ref,
            latents_checksum_xxh3=checksum,
            run_seconds=ran - began,
            transfer_seconds=time.perf_counter() - ran,
        )

    def abort(self, request_id: str, kept: int | None = None) -> Aborted:
        """Forgets a request.

        Args:
            request_id: which.
            kept: the step of a checkpoint that is kept for whoever goes on; others are released.

        Raises:
            NotFound: no such request is here.
        """
        running = self._take(request_id)
        running.previews.release()
        running.checkpoints.release(kept)
        return Aborted(request_id=request_id, completed_steps=running.state.completed_steps)

    def _take(self, request_id: str) -> _Running:
        # Taken out, and put back only by what succeeded.
        if request_id not in self._running:
            raise _not_here(request_id)
        return self._running.pop(request_id)


def _not_here(request_id: str) -> NotFound:
    return NotFound(f"request {request_id} is not being denoised here")


@contextmanager
def _going_through(answers: Answers, state: DenoiserState) -> Iterator[None]:
    """Has a request's forwards answered."""
    answers.begin()
    asking = cast("CachingState", state)
    own, asking.acceleration = asking.acceleration, answers
    try:
        yield
    finally:
        asking.acceleration = own


def _decisions_of(session: Session | None) -> tuple[BranchDecision, ...]:
    """What was decided in the step just made; asked once."""
    if session is None:
        return ()
    decisions, session.decisions = session.decisions, []
    return tuple(decisions)


def _check_finite(request_id: str, latents: Tensors) -> None:
    for name, tensor in latents.items():
        if not torch.isfinite(tensor).all():
            raise TriptychError(
                f"request {request_id}: the denoiser's {name} hold NaN or infinity in"
                f" {tensor.dtype}; they would decode to a black picture"
            )


def _checksum(latents: Tensors) -> int:
    digest = xxhash.xxh3_64()
    for _, tensor in sorted(latents.items()):
        digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return digest.intdigest()
