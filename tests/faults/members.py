"""The processes of a cluster that is to be hurt, each started again whenever it has ended."""

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import psutil

from tests.processes import Process, start
from tests.valkey_server import KeyValueServer


class Member(Protocol):
    """A process that can be hurt.

    Attributes:
        name: its own.
        kind: for the record, for example "gateway".
    """

    name: str
    kind: str

    def pid(self) -> int | None:
        """Its process now; None while there is none."""
        ...


class Service:
    """A process of ours.

    Args:
        name: its own.
        kind: for the record.
        command: module and arguments.
        log: what it writes to; appended to.
        children: modules that it starts itself.
    """

    def __init__(
        self, name: str, kind: str, command: Sequence[str], log: Path, children: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.kind = kind
        self.starts = 0
        self._command = command
        self._log = log
        self._children = children
        self._ending = threading.Event()
        self._process = self._start()
        self._keeper = threading.Thread(target=self._keep, name=name, daemon=True)
        self._keeper.start()

    def pid(self) -> int | None:
        """See Member."""
        return None if self._process.poll() is not None else self._process.pid

    def drain(self) -> None:
        """Tells it to end; it is started again afterwards."""
        self._process.terminate()

    def end(self) -> int:
        """Ends it for good; returns its exit code."""
        self._ending.set()
        self._process.terminate()
        self._keeper.join(60)
        return self._process.wait(1)

    def _keep(self) -> None:
        while True:
            self._process.wait()
            if self._ending.is_set():
                return
            self._process = self._start()

    def _start(self) -> Process:
        self.starts += 1
        with self._log.open("ab") as log:
            mortal = f"--exit-with-parent={os.getpid()}"
            return start(*self._command, mortal, stderr=log.fileno(), children=self._children)


class Rank:
    """A rank of a denoiser, whichever process it is at the moment.

    Args:
        denoiser: whose it is.
        number: which of its ranks.
    """

    def __init__(self, denoiser: Service, number: int) -> None:
        self.name = f"{denoiser.name} rank {number}"
        self.kind = "rank"
        self._denoiser = denoiser
        self._number = number

    def pid(self) -> int | None:
        """See Member."""
        if (parent := self._denoiser.pid()) is None:
            return None
        try:
            ranks = ranks_of(parent)
        except psutil.Error:
            return None
        return ranks[self._number].pid if self._number < len(ranks) else None


class Server:
    """One of the servers that tensors and jobs are kept in; started again when it was killed.

    Args:
        name: its own.
        server: the process.
    """

    def __init__(self, name: str, server: KeyValueServer) -> None:
        self.name = name
        self.kind = name
        self.server = server
        self._ending = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name=name, daemon=True)
        self._keeper.start()

    def pid(self) -> int | None:
        """See Member."""
        return self.server.pid

    def end(self) -> None:
        """Ends it for good."""
        self._ending.set()
        self.server.kill()
        self._keeper.join(60)

    def _keep(self) -> None:
        while True:
            self.server.wait()
            if self._ending.is_set():
                return
            self.server.start()


def ranks_of(denoiser: int) -> list[psutil.Process]:
    """A denoiser's ranks, by their numbers."""
    children = psutil.Process(denoiser).children()
    # The other is what they are forked from; they are started one after another.
    ranks = [each for each in children if "denoiser_service.rank" in " ".join(each.cmdline())]
    return sorted(ranks, key=lambda each: (each.create_time(), each.pid))


def hurt(pid: int, number: signal.Signals) -> bool:
    """Sends a signal; False if the process is gone."""
    try:
        psutil.Process(pid).send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True
