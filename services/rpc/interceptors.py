"""What every call of ours passes through: its request id into the logs, its error into a status."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc

from services.domain.errors import TriptychError
from services.observability.logs import bind_request, get_logger
from services.rpc.status import abort

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]  # generic in the stubs alone

REQUEST_ID_METADATA = "triptych-request-id"
_OURS = "/triptych.v1."

_log = get_logger(__name__)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Binds the request id of the caller and translates errors; leaves foreign services alone."""

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
            return _wrapped_stream(handler)
        return _wrapped_unary(handler)


def _wrapped_unary(handler: "Handler") -> "Handler":
    inner: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        _bind(context)
        try:
            return await inner(request, context)
        except TriptychError as error:
            await _refuse(context, error)
        except Exception as error:  # noqa: BLE001 - a defect must reach the log whole and the client bare
            await _fail(context, error)

    make = (
        grpc.stream_unary_rpc_method_handler
        if handler.request_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return make(call, handler.request_deserializer, handler.response_serializer)


def _wrapped_stream(handler: "Handler") -> "Handler":
    inner: Any = handler.unary_stream

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        _bind(context)
        try:
            # Closed here and now when the client leaves, not whenever the collector comes by.
            async with aclosing(inner(request, context)) as responses:
                async for response in responses:
                    yield response
        except TriptychError as error:
            await _refuse(context, error)
        except Exception as error:  # noqa: BLE001 - as above
            await _fail(context, error)

    return grpc.unary_stream_rpc_method_handler(
        call, handler.request_deserializer, handler.response_serializer
    )


def _bind(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    for key, value in context.invocation_metadata() or ():
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
