"""python -m triptych.launcher.fork_server DESCRIPTOR STARTER MODULE...: forks on request.

It imports what the modules need, once, and has no thread and touches no device: a fork of it is as
a fresh interpreter that has done the same. What it forks becomes its starter's child.
"""

import fcntl
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Final

from setproctitle import setproctitle

from triptych.launcher.ending import Ending
from triptych.launcher.fork_order import GO, READY, ForkOrder
from triptych.launcher.fork_server_link import ForkServerLink
from triptych.launcher.parentage import follow_parent

TITLE: Final = "triptych fork server"
"""What process lists call it."""

_OWN: Final = Path("/proc/self")
_HARMLESS: Final = {"/dev/null", "/dev/random", "/dev/urandom"}
_STANDARD: Final = 3


def serve(link: socket.socket) -> ForkOrder | None:
    """Forks until the starter's end is closed; returns more than None in a new process only.

    Args:
        link: to the starter.
    """
    kept = _open() - {link.fileno()}
    problem = _unfit(kept)
    if problem is not None:
        link.send(problem.encode())
        return None
    gc.freeze()
    try:
        link.send(READY)
    except BrokenPipeError:
        return None
    while (received := ForkOrder.receive(link)) is not None:
        order, descriptors = received
        if kept.isdisjoint(order.targets) and _forked(order, descriptors, link):
            _install(descriptors[1:], order.targets)
            return order
        for descriptor in descriptors:
            os.close(descriptor)
    return None


def _unfit(kept: Set[int]) -> str | None:
    """Why a fork of this process would not be as a fresh one; None if it would."""
    threads = len(list(_OWN.joinpath("task").iterdir()))
    if threads > 1:
        return f"the imported modules have started {threads - 1} threads"
    for descriptor in kept:
        # GPUs are seen here as well.
        opened = str(_OWN.joinpath("fd", str(descriptor)).readlink())
        if opened not in _HARMLESS:
            return f"the imported modules have opened {opened}"
    return None


def _open() -> set[int]:
    """Descriptors beside the standard ones."""
    found = {int(entry.name) for entry in _OWN.joinpath("fd").iterdir()}
    # The directory's own is closed by now.
    return {each for each in found if each >= _STANDARD and _OWN.joinpath("fd", str(each)).exists()}


def _forked(order: ForkOrder, descriptors: Sequence[int], link: socket.socket) -> bool:
    """True in the new process, which has its starter as its parent."""
    with socket.socket(fileno=os.dup(descriptors[0])) as reply:
        try:
            between = os.fork()
        except OSError as error:
            reply.send(json.dumps({"problem": str(error)}).encode())
            return False
        if between:
            os.waitid(os.P_PID, between, os.WEXITED)
            return False
        own = os.pidfd_open(os.getpid())
        try:
            if os.fork():
                os._exit(0)
        except OSError as error:
            reply.send(json.dumps({"problem": str(error)}).encode())
            os._exit(1)
        # The parent that is about to end is seen to have; the starter is the new one.
        select.select([own], [], [])
        os.close(own)
        link.close()
        if os.getppid() != order.starter or not _announced(reply):
            os._exit(1)
    os.close(descriptors[0])
    return True


def _announced(reply: socket.socket) -> bool:
    """Says who this process is; whether the starter still wants it."""
    try:
        reply.send(json.dumps({"pid": os.getpid()}).encode())
        return reply.recv(len(GO)) == GO
    except OSError:
        return False


def _install(descriptors: Sequence[int], targets: Sequence[int]) -> None:
    """Gives what came with an order the numbers it asks for."""
    above = max(targets) + 1
    # None is in the way of another.
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, above) for each in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, target in zip(moved, targets, strict=True):
        os.dup2(descriptor, target)
        os.close(descriptor)


def _become(order: ForkOrder) -> None:
    """Makes this process what exec would have made of it."""
    os.setsid()
    os.chdir(order.directory)
    os.environ.clear()  # noqa: TID251 - the starter's is passed on whole, not read
    os.environ.update(order.environment)  # noqa: TID251
    sys.argv = ["", *order.arguments]
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    setproctitle(" ".join([sys.executable, "-P", "-m", order.module, *order.arguments]))
    # Python's own is drawn anew in every fork, torch's begins the same in every process.
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    gc.enable()


def _multiplied(order: ForkOrder) -> socket.socket | None:
    """Forks a server for the new process itself; in that server, the link to its starter."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    starter = os.getpid()
    server = os.fork()
    if server:
        theirs.close()
        ForkServerLink.inherit(ForkServerLink(ours, server))
        return None
    ours.close()
    follow_parent(starter, signal.SIGKILL)
    for target in order.targets[_STANDARD:]:
        os.close(target)
    return theirs


def _preload(modules: Sequence[str]) -> None:
    """Imports what the modules import, without running them."""
    # Large libraries make so many objects that the collector would look through again and again.
    gc.disable()
    for module in modules:
        is_package = hasattr(importlib.import_module(module), "__path__")
        run = f"{module}.__main__" if is_package else module
        importlib.import_module(run)
        # A process runs it as `__main__`, afresh.
        del sys.modules[run]


def main() -> ForkOrder | None:
    """Serves; returns more than None in a new process only, with what it is to run."""
    descriptor, starter, *modules = sys.argv[1:]
    link = socket.socket(fileno=int(descriptor))
    link.set_inheritable(False)
    follow_parent(int(starter), signal.SIGKILL)
    setproctitle(TITLE)
    _preload(modules)
    while (order := serve(link)) is not None:
        own = _multiplied(order) if order.launches else None
        if own is None:
            _become(order)
            break
        link = own
        setproctitle(TITLE)
    return order


if __name__ == "__main__":
    ending = Ending()
    forked = main()
    if forked is not None:
        ending.run(forked.module)
