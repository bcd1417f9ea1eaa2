"""Importing large libraries without the garbage collector looking through them."""

import gc
import importlib
import sys
from types import ModuleType


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
