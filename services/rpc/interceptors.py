"""What every call of ours passes: a guard; its request id goes to the logs, its error is told."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from typing import TYPE_CHECKING, Any

import grpc

from services.observability import metrics, tracing
from services.observability.logs import bind_call, bind_request, get_logger
from services.observability.tracked import UNKNOWN
from services.rpc.call_room import CallRoom
from services.rpc.guard import Call, Guard, let_pass
from services.rpc.status import abort
from services.rpc.unreadable import lenient, read_request
from triptych.domain.errors import TriptychError

if TYPE_CHECKING:
    # Generic in the stubs alone.
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

REQUEST_ID_METADATA = "triptych-request-id"
_OURS = "/triptych.v1."

_log = get_logger(__name__)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Guards the call, binds its request id, translates errors; leaves foreign services alone.

    Args:
        stage: who serves, for the metrics.
        room: where every call finds its place.
        guard: called before every call's handler.
    """

    def __init__(self, stage: str, room: CallRoom, guard: Guard = let_pass) -> None:
        self._stage = stage
        self._room = room
        self._guard = guard

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wraps the handler of the called method."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OURS):
            return handler
        method = handler_call_details.method
        if handler.response_streaming:
            return self._wrapped_stream(method, handler)
        return self._wrapped_unary(method, handler)

    @contextmanager
    def _admitted(self, method: str, request: Any, context: "Context") -> Iterator[None]:
        """Raises what guard and room do, which is counted here: no handler ever sees the call."""
        with ExitStack() as place:
            try:
                tenant = self._guard(Call(method, context.invocation_metadata() or (), request))
                place.enter_context(self._room.place(method))
            except TriptychError as error:
                task = _snake_case(method.rpartition("/")[2])
                labels = {"stage": self._stage, "task": task, "model": UNKNOWN}
                metrics.REQUESTS_FINISHED.add(1, **labels, outcome="failed", reason=error.reason)
                raise
            if tenant is not None:
                bind_call(tenant=tenant)
            yield

    def _wrapped_unary(self, method: str, handler: "Handler") -> "Handler":
        inner: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def call(request: Any, context: "Context") -> Any:
            _bind(method, context)
            try:
                with self._admitted(method, request, context):
                    return await inner(read_request(request), context)
            except TriptychError as error:
                request = None
                await _refuse(context, error)
            except Exception as error:  # noqa: BLE001 - a defect must reach the log whole and the client bare
                request = None
                await _fail(context, error)

        make = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return make(call, lenient(handler.request_deserializer), handler.response_serializer)

    def _wrapped_stream(self, method: str, handler: "Handler") -> "Handler":
        inner: Any = handler.unary_stream

        async def call(request: Any, context: "Context") -> AsyncIterator[Any]:
            _bind(method, context)
            try:
                with self._admitted(method, request, context):
                    # Closed here and now when the client leaves, not whenever the collector comes
                    # by.
                    async with aclosing(inner(read_request(request), context)) as responses:
                        async for response in responses:
                            yield response
            except TriptychError as error:
                request = None
                await _refuse(context, error)
            except Exception as error:  # noqa: BLE001 - as above
                request = None
                await _fail(context, error)

        return grpc.unary_stream_rpc_method_handler(
            call, lenient(handler.request_deserializer), handler.response_serializer
        )


def _bind(method: str, context: "Context") -> None:
    bind_call(method=method, peer=context.peer())
    metadata = context.invocation_metadata() or ()
    tracing.attach_remote(metadata)
    for key, value in metadata:
        if key == REQUEST_ID_METADATA:
            bind_request(str(value))


async def _refuse(context: "Context", error: TriptychError) -> None:
    if error.status == "INTERNAL":
        _log.error("failed", reason=error.reason, cause=str(error))
    else:
        _log.info("refused", status=error.status, reason=error.reason)
    _forget_frames(error)
    await abort(context, error)


async def _fail(context: "Context", error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    _log.exception("failed", exc_info=error)
    _forget_frames(error)
    await abort(context, TriptychError("internal error; the service's log has the details"))


def _forget_frames(error: BaseException) -> None:
    """Lets go of what the frames of an error hold, the request above all.

    A call's context keeps the status that the call was aborted with, that what it was raised for,
    and frames keep the context: until the collector came by, as rarely as it does, a refused
    request would stay in memory.
    """
    told: BaseException | None = error
    while told is not None:
        told.__traceback__ = None
        told = told.__cause__ or told.__context__


def _snake_case(name: str) -> str:
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name).lstrip("_")
