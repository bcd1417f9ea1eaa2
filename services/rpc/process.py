"""The frame around every process: settings in, exit code out."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from services.domain.settings import ProcessSettings, ServerSettings
from services.observability.exposition import exposed, traced
from services.observability.logs import configure
from triptych.domain.errors import ConfigurationError, StageUnavailable
from triptych.launcher.parentage import follow_parent

EXIT_CONFIGURATION = 2
EXIT_BROKEN = 1

S = TypeVar("S", bound=ServerSettings)


def run_process(name: str, settings_type: type[S], main: Callable[[S], Awaitable[None]]) -> None:
    """Reads the settings and runs the process; exits with 2 if it cannot start as told.

    If it broke, and can do its work no more, it exits with 1, for whoever supervises it to start it
    again.

    Args:
        name: for the logs, for example "encoder".
        settings_type: what to read flags and environment into.
        main: returns when the process has drained.
    """
    settings = settings_type.read(sys.argv[1:])
    broken: StageUnavailable | None = None
    listen, endpoint = settings.metrics_listen, settings.otlp_endpoint
    with (
        process_frame(name, settings),
        exposed(name, listen=listen, otlp_endpoint=endpoint),
        traced(name, otlp_endpoint=endpoint, ratio=settings.trace_ratio),
    ):
        try:
            asyncio.run(_awaited(main(settings)))
        except StageUnavailable as error:
            broken = error
    if broken is not None:
        sys.stderr.write(f"{name}: {broken}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        # Nothing is waited for: a thread that hangs would keep the process for ever.
        os._exit(EXIT_BROKEN)


@contextmanager
def process_frame(name: str, settings: ProcessSettings) -> Iterator[None]:
    """Sets the process up; ends it with 2 if what runs inside cannot be done as it was told."""
    configure(name, settings.log_level, settings.log_format)
    if settings.exit_with_parent:
        follow_parent(settings.exit_with_parent)
    try:
        yield
    except ConfigurationError as error:
        sys.stderr.write(f"{name}: {error}\n")
        sys.exit(EXIT_CONFIGURATION)


async def run_until_first_ends(*work: Coroutine[Any, Any, object]) -> None:
    """Runs all at once; when the first ends or fails, cancels the others and ends the same way."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for each in done:
        each.result()


async def _awaited(work: Awaitable[None]) -> None:
    await work
