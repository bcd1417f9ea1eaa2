"""Which requests the denoiser takes in. Pure; loads no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from denoiser_service.service.footprint import Estimate, check_fits, size_bytes
from denoiser_service.service.room import Candidate, Room
from services.domain.stages import DenoiseRequest
from services.loaded_models.stage_model import check_parameters
from triptych.domain.errors import AlreadyExists, QueueFull, TriptychError, Unavailable
from triptych.domain.model import ModelInfo, Stage


@dataclass(frozen=True, slots=True)
class Admit:
    """The request is taken in; the ranks will keep so many bytes of it at most."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request is not taken in; the reason knows its status and when to try again."""

    reason: TriptychError


@dataclass(frozen=True, slots=True)
class Admission:
    """Decides about one request after the other.

    Attributes:
        room: what the ranks hold at once.
        max_queued: requests that may wait beyond that.
        estimate: what the ranks will keep of a request.
    """

    room: Room
    max_queued: int
    estimate: Estimate

    def decide(
        self,
        request: DenoiseRequest,
        present: Sequence[Candidate],
        *,
        model: ModelInfo | None,
        step_seconds: float,
    ) -> Admit | Refuse:
        """Whether a request is taken in.

        Args:
            request: that arrives.
            present: the requests that are here.
            model: that the ranks hold; None while they are being rebuilt.
            step_seconds: what a step takes, as lately measured.
        """
        try:
            _check_new(request, present)
            check(request, model)
            size = self._size_bytes(request)
            self._check_queue(request, present, size, step_seconds)
        except TriptychError as error:
            return Refuse(error)
        return Admit(size)

    def _size_bytes(self, request: DenoiseRequest) -> int:
        residency = self.estimate(request)
        if self.room.size_bytes is not None:
            check_fits(request, residency, self.room.size_bytes)
        return size_bytes(residency, request.parameters.cache)

    def _check_queue(
        self, request: DenoiseRequest, present: Sequence[Candidate], size: int, step_seconds: float
    ) -> None:
        last = max((candidate.arrival for candidate in present), default=0)
        newcomer = Candidate(request.place, last + 1, size_bytes=size)
        candidates = [*present, newcomer]
        waiting = sum(not candidate.resident for candidate in candidates)
        if waiting - len(self.room.entering(candidates)) > self.max_queued:
            retry_seconds = step_seconds * request.parameters.steps
            raise QueueFull(Stage.DENOISER, self.max_queued, retry_seconds)


def check(request: DenoiseRequest, model: ModelInfo | None) -> None:
    """Refuses what every rank would refuse; the limits of its model once that is known.

    Raises:
        InvalidRequest: naming the field.
    """
    request.check_images()
    if model is not None:
        check_parameters(request.parameters, model)


def _check_new(request: DenoiseRequest, present: Sequence[Candidate]) -> None:
    for candidate in present:
        if candidate.request_id != request.place:
            continue
        if candidate.leaving is None:
            raise AlreadyExists(f"request_id: {request.request_id} is being denoised already")
        # A call that was given up a moment ago.
        raise Unavailable(
            f"request_id: {request.request_id} is leaving this denoiser; repeat the request"
        )
