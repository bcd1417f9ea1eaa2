"""What Linux knows of parents: who ends with whom, and whose children orphans become."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Of linux/prctl.h.
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_CHILD_SUBREAPER: Final = 37

_lock: Final = threading.Lock()
_adopters = 0


def follow_parent(parent: int, by: signal.Signals = signal.SIGTERM) -> None:
    """Asks the kernel for a signal when the parent ends: nothing outlives a killed parent.

    Args:
        parent: its process id; it may have ended already, and this process have another one now.
        by: what the kernel sends; SIGKILL is kept across an exec.
    """
    _prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        sys.exit(0)


@contextmanager
def adopting() -> Iterator[None]:
    """Makes descendants that lose their parent inside the block children of this process.

    Not for longer: what other processes leave behind would wait here to be collected.
    """
    global _adopters  # noqa: PLW0603 - the kernel keeps one flag for the process
    with _lock:
        was_one = _adopters > 0 or _is_adopter()
        _adopters += 1
        if not was_one:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        alone = not was_one
    try:
        yield
    finally:
        with _lock:
            _adopters -= 1
            if alone and _adopters == 0:
                _prctl(_PR_SET_CHILD_SUBREAPER, 0)


def _is_adopter() -> bool:
    flag = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(flag))
    return bool(flag.value)


def _prctl(option: int, argument: object) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(option, argument, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
