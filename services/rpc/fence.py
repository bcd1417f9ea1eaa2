"""Which attempt of a job works at a stage: the latest that came, and no earlier one beside it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

from services.observability.logs import get_logger
from triptych.domain.deadline import Deadline
from triptych.domain.errors import DeadlineExceeded, Superseded

T = TypeVar("T")
_Job = tuple[str, str]

_REMEMBERED: Final = 4096

_log = get_logger(__name__)


class FencedRequest(Protocol):
    """What a stage is asked on a job's behalf."""

    @property
    def tenant(self) -> str:
        """Whose job it is."""
        ...

    @property
    def request_id(self) -> str:
        """The job's id."""
        ...

    @property
    def attempt(self) -> int:
        """The fencing token under which it is asked; 0 for a call that is not fenced."""
        ...


class FencedCall:
    """One call, from its arrival until its work has left the stage.

    Attributes:
        superseded: done once a later attempt has come.
        left: done once its work has left.
    """

    def __init__(self, request: FencedRequest) -> None:
        loop = asyncio.get_running_loop()
        self.request = request
        self.superseded: asyncio.Future[None] = loop.create_future()
        self.left: asyncio.Future[None] = loop.create_future()

    def check(self) -> None:
        """Raises Superseded once a later attempt has come."""
        if self.superseded.done():
            raise Superseded(self.request.request_id, self.request.attempt)

    def supersede(self) -> None:
        """A later attempt has come."""
        if not self.superseded.done():
            self.superseded.set_result(None)


class Fence:
    """Refuses attempts that are not a job's latest, and has them end. For one event loop.

    Calls of the same attempt do not disturb one another, and calls without one nobody.

    Args:
        remembered: of how many jobs the latest attempt is known when nothing is at work for them.
    """

    def __init__(self, remembered: int = _REMEMBERED) -> None:
        self._remembered = remembered
        # In the order in which they were heard of last.
        self._latest: dict[_Job, int] = {}
        self._calls: dict[_Job, list[FencedCall]] = {}

    async def run(
        self,
        request: FencedRequest,
        work: Callable[[], Coroutine[Any, Any, T]],
        deadline: Deadline,
    ) -> T:
        """Runs the work of a call, which is cancelled as soon as a later attempt comes.

        Args:
            request: what asks for it.
            work: what to run; it has left when it has ended.
            deadline: until when to wait for earlier attempts.

        Raises:
            Superseded: a later attempt has come.
            DeadlineExceeded: an earlier one did not leave in time.
        """
        if not request.attempt:
            return await work()
        call = await self.enter(request, deadline)
        task = asyncio.create_task(work())
        try:
            await asyncio.wait((task, call.superseded), return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.leave(call)
        if task.cancelled():
            call.check()
        return task.result()

    async def enter(
        self, request: FencedRequest, deadline: Deadline, former: Sequence[FencedCall] = ()
    ) -> FencedCall:
        """Has the work of earlier attempts end, and returns once it has left.

        Args:
            request: what comes; whoever enters has to leave.
            deadline: until when to wait.
            former: calls of the same attempt that are about to leave, to wait for as well.

        Raises:
            Superseded: a later attempt has come, before this one or while it waited.
            DeadlineExceeded: an earlier one did not leave in time.
        """
        call, job = FencedCall(request), _job(request)
        if not request.attempt:
            return call
        present = self._calls.get(job, [])
        if request.attempt < max((self._latest.get(job, 0), *map(_attempt, present))):
            raise Superseded(request.request_id, request.attempt)
        earlier = [other for other in present if other.request.attempt < request.attempt]
        self._calls[job] = [*present, call]
        self._remember(job, request.attempt)
        for other in earlier:
            _log.warning("superseded", attempt=other.request.attempt, by_attempt=request.attempt)
            other.supersede()
        try:
            await self._left([*earlier, *former], call, deadline)
        except BaseException:
            self.leave(call)
            raise
        return call

    def leave(self, call: FencedCall) -> None:
        """The work of a call has left; safe to repeat."""
        job = _job(call.request)
        rest = [other for other in self._calls.pop(job, ()) if other is not call]
        if rest:
            self._calls[job] = rest
        if not call.left.done():
            call.left.set_result(None)

    async def _left(
        self, others: Iterable[FencedCall], call: FencedCall, deadline: Deadline
    ) -> None:
        for other in others:
            await asyncio.wait(
                (other.left, call.superseded),
                timeout=deadline.remaining_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            call.check()
            if not other.left.done():
                raise DeadlineExceeded("the deadline passed while an earlier call was leaving")

    def _remember(self, job: _Job, attempt: int) -> None:
        self._latest.pop(job, None)
        self._latest[job] = attempt
        if len(self._latest) > self._remembered:
            del self._latest[next(iter(self._latest))]


def _job(request: FencedRequest) -> _Job:
    return request.tenant, request.request_id


def _attempt(call: FencedCall) -> int:
    return call.request.attempt
