"""Real processes that use a store, cheap enough to be killed by the dozen.

One helper process without torch and threads forks a child for every process a test asks for. Each
child obeys commands, one line of JSON each, and answers with one line.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TextIO

from services.tensor_store.blob_store import BlobName
from services.tensor_store.entry_store import EntryStore
from services.tensor_store.opening import open_blob_store
from services.tensor_store.shared_memory import SharedMemoryBlobStore
from triptych.domain.errors import TriptychError

REPOSITORY = Path(__file__).parents[3]
ENTRIES_LIMIT_BYTES = 4 << 20
ENTRIES_IDLE_SECONDS = 600.0


class StoreProcess:
    """A child as the test sees it."""

    def __init__(self, processes: "StoreProcesses", pid: int) -> None:
        self._processes = processes
        self._pid = pid

    def put(self, request_id: str, size_bytes: int, fill: int, expire_time: float) -> BlobName:
        """Stores bytes that are all equal."""
        answer = self._tell("put", request_id, size_bytes, fill, expire_time)
        return BlobName(*answer)

    def keep(self, name: BlobName) -> BlobName:
        """Has a blob of its own outlive it."""
        return BlobName(*self._tell("keep", (name.owner, name.tenant, name.request_id, name.key)))

    def begin_put(self, request_id: str, size_bytes: int) -> None:
        """Reserves, writes half of it, and stays there."""
        self._tell("begin_put", request_id, size_bytes)

    def begin_get(self, name: BlobName, size_bytes: int) -> None:
        """Opens a blob and keeps it open."""
        parts = (name.owner, name.tenant, name.request_id, name.key)
        self._tell("begin_get", parts, size_bytes)

    def seen(self) -> Sequence[int]:
        """The distinct bytes of the blob that is open."""
        return list(self._tell("seen"))

    def end_get(self) -> None:
        """Lets the open blob go."""
        self._tell("end_get")

    def sweep(self) -> tuple[int, int]:
        """Returns how many blobs were expired, and how many orphaned."""
        expired, orphaned = self._tell("sweep")
        return expired, orphaned

    def write_entry(self, name: str, size_bytes: int, fill: int) -> bool:
        """Writes an entry whose bytes are all equal."""
        return bool(self._tell("write_entry", name, size_bytes, fill))

    def write_entries_forever(self, size_bytes: int) -> None:
        """Begins to write entries, each of bytes that are all equal, until it is killed."""
        self._processes.begin(["tell", self._pid, ["write_entries_forever", size_bytes]])

    def stop_while_it_writes_an_entry(self) -> None:
        """Stops it, by SIGSTOP, while no other may write entries."""
        self._tell("begin_to_write_entries")
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Continues what was stopped."""
        os.kill(self._pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kills it with SIGKILL; it is gone when this returns."""
        self._processes.ask(["kill", self._pid])

    def _tell(self, *command: object) -> Any:
        return self._processes.ask(["tell", self._pid, command])


class StoreProcesses:
    """The helper as the test sees it."""

    def __init__(self) -> None:
        self._helper = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.tensor_store.store_processes"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._helper.communicate()
        assert self._helper.returncode == 0

    def start(self, url: str) -> StoreProcess:
        """Starts a process that has the store open."""
        return StoreProcess(self, self.ask(["start", url]))

    def begin(self, command: object) -> None:
        """Sends one command to the helper, which will not answer."""
        assert self._helper.stdin
        self._helper.stdin.write(json.dumps(command) + "\n")
        self._helper.stdin.flush()

    def ask(self, command: object) -> Any:
        """Sends one command to the helper and returns the answer."""
        self.begin(command)
        assert self._helper.stdout
        answer = json.loads(self._helper.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]


def _answer(result: object) -> None:
    sys.stdout.write(json.dumps({"result": result}) + "\n")
    sys.stdout.flush()


class _Child:
    def __init__(self, url: str) -> None:
        self._store = open_blob_store(url)
        self._held = ExitStack()
        self._view = memoryview(b"")

    def put(self, request_id: str, size: int, fill: int, expire_time: float) -> tuple[str, ...]:
        with self._store.reserve("tenant", request_id, size, expire_time) as reservation:
            reservation.buffer[:] = bytes([fill]) * size
        name = reservation.name
        return name.owner, name.tenant, name.request_id, name.key

    def keep(self, name: tuple[str, str, str, str]) -> tuple[str, ...]:
        kept = self._store.keep(BlobName(*name))
        return kept.owner, kept.tenant, kept.request_id, kept.key

    def begin_put(self, request_id: str, size: int) -> None:
        reservation = self._held.enter_context(
            self._store.reserve("tenant", request_id, size, 2**40)
        )
        reservation.buffer[: size // 2] = b"x" * (size // 2)

    def begin_get(self, name: tuple[str, str, str, str], size: int) -> None:
        self._view = self._held.enter_context(self._store.open(BlobName(*name), size))

    def seen(self) -> list[int]:
        return sorted(set(self._view))

    def end_get(self) -> None:
        self._view = memoryview(b"")
        self._held.close()

    def sweep(self) -> tuple[int, int]:
        report = self._store.sweep()
        return report.expired, report.orphaned

    def write_entry(self, name: str, size: int, fill: int) -> bool:
        return self._entries().write(name, memoryview(bytes([fill]) * size))

    def write_entries_forever(self, size: int) -> None:
        entries = self._entries()
        for turn in itertools.count():
            fill = turn % 251
            entries.write(f"{fill:064x}", memoryview(bytes([fill]) * size))

    def begin_to_write_entries(self) -> None:
        assert isinstance(self._store, SharedMemoryBlobStore)
        assert self._held.enter_context(self._store._root.entries.locked())

    def _entries(self) -> EntryStore:
        return self._store.entries(ENTRIES_LIMIT_BYTES, ENTRIES_IDLE_SECONDS)


def _obey(url: str, commands: TextIO) -> None:
    child = _Child(url)
    _answer(os.getpid())
    for line in commands:
        verb, *arguments = json.loads(line)
        try:
            _answer(getattr(child, verb)(*arguments))
        except TriptychError as error:
            sys.stdout.write(json.dumps({"error": repr(error)}) + "\n")
            sys.stdout.flush()


def _start(url: str, children: dict[int, TextIO]) -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Writing ends of elder children's pipes would keep those from ending with the helper.
        for pipe in children.values():
            pipe.close()
        os.close(write_end)
        with os.fdopen(read_end) as commands:
            _obey(url, commands)
        os._exit(0)
    os.close(read_end)
    children[pid] = os.fdopen(write_end, "w", buffering=1)


def _kill(pid: int, children: dict[int, TextIO]) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    children.pop(pid).close()


def _help() -> None:
    children: dict[int, TextIO] = {}
    # Not by iterating over stdin: a forked child would inherit lines read ahead.
    while line := sys.stdin.readline():
        match json.loads(line):
            case ["start", str(url)]:
                _start(url, children)
            case ["tell", int(pid), command]:
                children[pid].write(json.dumps(command) + "\n")
            case ["kill", int(pid)]:
                _kill(pid, children)
                _answer(None)
    for pid in list(children):
        _kill(pid, children)


if __name__ == "__main__":
    _help()
