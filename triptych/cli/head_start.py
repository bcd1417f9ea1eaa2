"""Begins to import what a cluster's processes need while the command itself is being imported."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from triptych.cluster.topology import SPLIT_MODULES
from triptych.launcher.fork_server_link import ForkServerLink

_START_CLUSTERS: Final = {"up", "generate"}
_DO_WITHOUT: Final = ("--target", "--help", "--launcher")


def head_start(arguments: Sequence[str]) -> None:
    """Starts a fork server for the first launcher of this process, if there will be one.

    That is a guess, made before options are read: a server that nobody needs ends with the
    process.
    """
    if starts_cluster(arguments) and find_spec("torch") and not ForkServerLink.is_inherited():
        # What goes wrong there is said by the processes that are executed then.
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            ForkServerLink.inherit(ForkServerLink.start(SPLIT_MODULES, nothing))
        finally:
            os.close(nothing)


def starts_cluster(arguments: Sequence[str]) -> bool:
    """Whether a command line looks as if a cluster were to be started here by fork."""
    if not arguments or arguments[0] not in _START_CLUSTERS:
        return False
    return not any(each.startswith(_DO_WITHOUT) for each in arguments[1:])
