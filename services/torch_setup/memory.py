"""What a process that computes does with its memory."""

import ctypes
import gc
import importlib
import os
import sys
from types import ModuleType

# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 2**30
# The largest that glibc takes: half a heap of an arena.
_MAPPED_BYTES = 2**25
_TOLD = ("MALLOC_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Lets this process use its freed memory again, instead of giving it to the kernel and back.

    A step frees what it made, and glibc returns that to the kernel at once: the next step then
    takes a page fault for every 4 KiB that it writes. Up to 1 GiB at the end of the heap stays with
    the process; a tensor above 32 MiB is mapped and unmapped each time, as ever. Threads share one
    arena, since those of other threads give back whatever these limits say.

    Returns:
        False, having done nothing, where the C library is not glibc or the environment tells it
        what to do (MALLOC_*, GLIBC_TUNABLES).
    """
    told = any(name.startswith(_TOLD) for name in os.environ)  # noqa: TID251 — glibc's settings
    library = ctypes.CDLL(None)
    if told or not hasattr(library, "gnu_get_libc_version"):
        return False
    limits = {
        _TRIM_THRESHOLD: _KEPT_BYTES,
        _MMAP_THRESHOLD: _MAPPED_BYTES,
        _ARENA_MAX: 1,
    }
    taken = [library.mallopt(which, limit) for which, limit in limits.items()]
    return all(taken)


def import_lasting(name: str) -> ModuleType:
    """Imports a module that stays, with all it imports, for as long as the process.

    Large libraries make so many objects that the collector, which goes through all there are again
    and again meanwhile, takes a good part of the time a process needs to start, and to end.
    Source: https://docs.python.org/3/library/gc.html#gc.freeze

    Args:
        name: the module's full name.

    Raises:
        ImportError: there is no such module, or it cannot be imported.
    """
    if name in sys.modules:
        return sys.modules[name]
    enabled = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(name)
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
