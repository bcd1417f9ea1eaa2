"""What the supervisor tells its ranks, and what they answer. JSON on the wire; loads no torch.

Commands are executed in the order they are sent, and each gets exactly one reply, in that order.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from services.domain.checkpoint import Checkpoint
from services.domain.tensor_ref import TensorRef
from services.observability.tracing import TRACEPARENT_LENGTH
from triptych.domain.cache_statistics import BranchDecision
from triptych.domain.errors import FieldViolation, RemoteFailure, TriptychError
from triptych.domain.generation import GenerationParameters
from triptych.domain.model import LoadedModel
from triptych.domain.parallel import ONE_RANK, ParallelDegrees


class _Message(BaseModel):
    # References carry bytes; the outermost model decides how they are written.
    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )


class _Traced(_Message):
    """What a rank makes a span of.

    Attributes:
        trace: traceparent of the span above it; None to make none.
    """

    trace: Annotated[str, Field(max_length=TRACEPARENT_LENGTH)] | None = None


class Prepare(_Traced):
    """Draw the noise and keep the request's state until it is finished or aborted.

    Attributes:
        stored_as: whose tensors it reads and writes; the request's own id by default.
        image_index: which of the request's results it is.
        shares_steps: whether it may be told to take its steps together with other requests.
        remaining_seconds: until when its latents may be wanted, from now.
        resume: what to go on from; None to begin. The ranks release it as those that they save
            themselves.
    """

    kind: Literal["prepare"] = "prepare"
    request_id: str
    tenant: str
    parameters: GenerationParameters
    conditioning: TensorRef
    image_latents: tuple[TensorRef, ...] = ()
    stored_as: str | None = None
    image_index: int = 0
    shares_steps: bool = False
    remaining_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    resume: Checkpoint | None = None


class Step(_Traced):
    """Advance a request by one step."""

    kind: Literal["step"] = "step"
    request_id: str


class StepBatch(_Message):
    """Advance several requests by one step, with one forward for what they have in common."""

    kind: Literal["step_batch"] = "step_batch"
    request_ids: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def request_id(self) -> str:
        """All of them, for people."""
        return ", ".join(self.request_ids)


class Save(_Message):
    """Store what a request's steps have made of it so far.

    Attributes:
        kept: the step of an earlier checkpoint that is kept beside this one; others are released.
        wait: whether the answer is given once it is stored. Otherwise it is stored beside the next
            steps, and one of their answers has it; while an earlier one is, nothing is begun.
    """

    kind: Literal["save"] = "save"
    request_id: str
    kept: Annotated[int, Field(ge=0)] | None = None
    wait: bool = True


class Finish(_Traced):
    """Store a request's latents and forget it.

    Attributes:
        kept: see Abort.
    """

    kind: Literal["finish"] = "finish"
    request_id: str
    kept: Annotated[int, Field(ge=0)] | None = None


class Abort(_Message):
    """Forget a request.

    Attributes:
        kept: the step of a checkpoint that is kept for whoever goes on; others are released.
    """

    kind: Literal["abort"] = "abort"
    request_id: str
    kept: Annotated[int, Field(ge=0)] | None = None


Command = Annotated[Prepare | Step | StepBatch | Save | Finish | Abort, Field(discriminator="kind")]


class RankReady(_Message):
    """The first thing a rank says: it holds its model and takes commands.

    Attributes:
        tensor_store: identity of the store it opened.
    """

    kind: Literal["ready"] = "ready"
    loaded: LoadedModel
    tensor_store: str
    pid: int


class Alive(_Message):
    """Said again and again, whatever the rank is doing; silence means that it does nothing."""

    kind: Literal["alive"] = "alive"


class Prepared(_Message):
    """The answer to Prepare; seconds in the model and in the tensor store.

    Attributes:
        degrees: how its steps will be spread over the ranks.
        held_bytes: of the request's state.
        batch_key: equal for requests whose next steps begin with one forward, if they are told to
            take it together; None for a request that takes every step alone.
        completed_steps: of the checkpoint that it goes on from.
        recomputes: whether its cache, or a part of it, could not be restored from there, so that
            the next step computes what it would have reused.
    """

    kind: Literal["prepared"] = "prepared"
    request_id: str
    total_steps: int
    run_seconds: float
    transfer_seconds: float
    degrees: ParallelDegrees = ONE_RANK
    held_bytes: int = 0
    batch_key: str | None = None
    completed_steps: int = 0
    recomputes: bool = False


class Stepped(_Message):
    """The answer to Step; see services.domain.stages.StepCompleted.

    Attributes:
        held_bytes: of the request's state and cache.
        preview: what the loop is heading for, if one is due and could be stored.
        batch_key: see Prepared; None after the last step.
        saved: what was stored beside the steps since the last answer, by rank, of each with its
            own part alone; None of those that have nothing new, and empty if none has.
    """

    kind: Literal["stepped"] = "stepped"
    request_id: str
    step: int
    total_steps: int
    sigma: float
    seconds: float
    decisions: tuple[BranchDecision, ...] = ()
    held_bytes: int = 0
    preview: TensorRef | None = None
    batch_key: str | None = None
    saved: tuple[Checkpoint | None, ...] = ()


class Saved(_Message):
    """The answer to Save; a request that could not be saved goes on nonetheless.

    Attributes:
        checkpoint: of one rank with its own part alone; None if it is stored beside the next steps.
    """

    kind: Literal["saved"] = "saved"
    request_id: str
    checkpoint: Checkpoint | None
    transfer_seconds: float


class Finished(_Message):
    """The answer to Finish; see services.domain.stages.Denoised.

    Attributes:
        latents: from the one rank of a group that stores them.
    """

    kind: Literal["finished"] = "finished"
    request_id: str
    latents: TensorRef | None
    latents_checksum_xxh3: int
    run_seconds: float
    transfer_seconds: float


class Aborted(_Message):
    """The answer to Abort."""

    kind: Literal["aborted"] = "aborted"
    request_id: str
    completed_steps: int


class Failed(_Message):
    """The answer to a command that failed.

    The request is forgotten, unless it was prepared twice or could only not be saved.

    Attributes:
        fatal: the rank cannot go on either, and ends.
    """

    kind: Literal["failed"] = "failed"
    request_id: str
    status: str
    reason: str
    message: str
    violations: tuple[FieldViolation, ...] = ()
    retry_after_seconds: float | None = None
    fatal: bool = False

    @classmethod
    def of(cls, request_id: str, error: TriptychError, *, fatal: bool = False) -> "Failed":
        """What an error becomes on the channel."""
        return cls(
            request_id=request_id,
            status=error.status,
            reason=error.reason,
            message=str(error),
            violations=tuple(error.violations),
            retry_after_seconds=error.retry_after_seconds,
            fatal=fatal,
        )

    def error(self) -> TriptychError:
        """The error that this stands for."""
        return RemoteFailure(
            self.message,
            status=self.status,
            reason=self.reason,
            violations=self.violations,
            retry_after_seconds=self.retry_after_seconds,
        )


class SteppedBatch(_Message):
    """The answer to StepBatch: for each request, in their order, what Step would have answered."""

    kind: Literal["stepped_batch"] = "stepped_batch"
    replies: tuple[Annotated[Stepped | Failed, Field(discriminator="kind")], ...]


Reply = Annotated[
    RankReady | Prepared | Stepped | SteppedBatch | Saved | Finished | Aborted | Failed,
    Field(discriminator="kind"),
]
_Said = Annotated[Reply | Alive, Field(discriminator="kind")]

_COMMANDS: TypeAdapter[Command] = TypeAdapter(Command)
_SAID: TypeAdapter[Reply | Alive] = TypeAdapter(_Said)


def decode_command(payload: bytes) -> Command:
    """Reads a command.

    Raises:
        ConnectionError: it is none; the channel is of no further use.
    """
    try:
        return _COMMANDS.validate_json(payload)
    except ValidationError as error:
        raise ConnectionError(f"rank channel: not a command: {error}") from error


def decode_reply(payload: bytes) -> Reply | Alive:
    """Reads a reply, or a sign of life between two.

    Raises:
        ConnectionError: it is neither; the channel is of no further use.
    """
    try:
        return _SAID.validate_json(payload)
    except ValidationError as error:
        raise ConnectionError(f"rank channel: not a reply: {error}") from error
