"""What every call of ours passes: a guard; its request id goes to the logs, its error is told."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc

from services.observability import tracing
from services.observability.logs import bind_request, get_logger
from services.rpc.status import abort
from services.rpc.unreadable import lenient, read_request
from triptych.domain.errors import TriptychError

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]  # generic in the stubs alone

REQUEST_ID_METADATA = "triptych-request-id"
_OURS = "/triptych.v1."

Guard = Callable[[Iterable[tuple[str, str | bytes]]], object]
"""Raises a TriptychError for metadata whose call is to be refused."""

_log = get_logger(__name__)


def let_pass(_: Iterable[tuple[str, str | bytes]]) -> None:
    """The guard of a server that anybody may call."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Guards the call, binds its request id, translates errors; leaves foreign services alone.

    Args:
        guard: called before every call's handler.
    """

    def __init__(self, guard: Guard = let_pass) -> None:
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
        if handler.response_streaming:
            return _wrapped_stream(handler, self._guard)
        return _wrapped_unary(handler, self._guard)


def _wrapped_unary(handler: "Handler", guard: Guard) -> "Handler":
    inner: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        _bind(context)
        try:
            guard(context.invocation_metadata() or ())
            return await inner(read_request(request), context)
        except TriptychError as error:
            await _refuse(context, error)
        except Exception as error:  # noqa: BLE001 - a defect must reach the log whole and the client bare
            await _fail(context, error)

    make = (
        grpc.stream_unary_rpc_method_handler
        if handler.request_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return make(call, lenient(handler.request_deserializer), handler.response_serializer)


def _wrapped_stream(handler: "Handler", guard: Guard) -> "Handler":
    inner: Any = handler.unary_stream

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        _bind(context)
        try:
            guard(context.invocation_metadata() or ())
            # Closed here and now when the client leaves, not whenever the collector comes by.
            async with aclosing(inner(read_request(request), context)) as responses:
                async for response in responses:
                    yield response
        except TriptychError as error:
            await _refuse(context, error)
        except Exception as error:  # noqa: BLE001 - as above
            await _fail(context, error)

    return grpc.unary_stream_rpc_method_handler(
        call, lenient(handler.request_deserializer), handler.response_serializer
    )


def _bind(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    metadata = context.invocation_metadata() or ()
    tracing.attach_remote(metadata)
    for key, value in metadata:
        if key == REQUEST_ID_METADATA:
            bind_request(str(value))


async def _refuse(context: grpc.aio.ServicerContext[Any, Any], error: TriptychError) -> None:
    if error.status == "INTERNAL":
        _log.error("failed", reason=error.reason, cause=str(error))
    else:
        _log.info("refused", status=error.status, reason=error.reason)
    await abort(context, error)


async def _fail(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    _log.exception("failed", exc_info=error)
    await abort(context, TriptychError("internal error; the service's log has the details"))
