"""How a forked process ends: as the interpreter ends one, without taking apart what it imported.

A module that is taken apart is written to, and so copied from the process that it was forked of:
for large libraries that takes longer than anything else in a short life.
"""

import atexit
import os
import runpy
import signal
import sys
from typing import Final

_UNCAUGHT: Final = 1
_NOT_WRITTEN: Final = 120


class Ending:
    """The last of this process's exit handlers, since it is registered before any other is."""

    def __init__(self) -> None:
        self._code = _UNCAUGHT
        self._interrupted = False
        atexit.register(self._end)

    def run(self, module: str) -> None:
        """Runs a module as `python -m` does; its exit code becomes this process's."""
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            self._code = _code_of(ended)
            raise
        except KeyboardInterrupt:
            self._interrupted = True
            raise
        self._code = 0

    def _end(self) -> None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            self._code = _NOT_WRITTEN
        if self._interrupted:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(self._code)


def _code_of(ended: SystemExit) -> int:
    if ended.code is None:
        return 0
    # A text is written to standard error.
    return ended.code & 0xFF if isinstance(ended.code, int) else _UNCAUGHT
