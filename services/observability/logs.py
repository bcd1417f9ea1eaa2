"""Structured logs: one JSON object per line on stderr, with the ids of request and trace if known.

Prompts are personal data and never logged.
"""

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from services.observability.tracing import trace_ids

REQUEST_ID = "request_id"


def configure(process: str, level: str, log_format: Literal["json", "console"]) -> None:
    """Sets up logging for the whole process, libraries included.

    Args:
        process: which process this is, for example "encoder"; a field of every line.
        level: least severe level to write.
        log_format: "json" for machines, "console" for people.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)


def _add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """So that a line leads to its trace."""
    return {**event, **trace_ids()}


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger that carries the current request's id."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def bind_call(**what: str) -> None:
    """Puts whose call it is (peer, method, tenant) on every further line of the current task."""
    structlog.contextvars.bind_contextvars(**what)


def bind_request(request_id: str) -> None:
    """Puts the request id on every further line of the current task."""
    structlog.contextvars.bind_contextvars(**{REQUEST_ID: request_id})
