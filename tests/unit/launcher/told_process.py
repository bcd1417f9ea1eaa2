"""A process that does as it is told. Run by test_launchers, never imported but by a fork server."""

import asyncio
import atexit
import json
import os
import random
import signal
import sys
import uuid
from pathlib import Path

from triptych.launcher.command import Command
from triptych.launcher.fork_launcher import ForkLauncher

MODULE = "tests.unit.launcher.told_process"


def report() -> dict[str, object]:
    """What a process is born with, but for what no two share."""
    descriptors = {int(each.name) for each in Path("/proc/self/fd").iterdir()}
    ignored = {each.name for each in signal.Signals if signal.getsignal(each) is signal.SIG_IGN}
    return {
        "arguments": sys.argv,
        "name": __name__,
        "is main": sys.modules["__main__"].__dict__ is globals(),
        "variables": dict(os.environ),
        "directory": str(Path.cwd()),
        "leads its session": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "parent": os.getppid(),
        "ignored": sorted(ignored),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "descriptors": sorted(
            each for each in descriptors if Path(f"/proc/self/fd/{each}").exists()
        ),
        "command line": Path("/proc/self/cmdline").read_text().rstrip("\0").replace("\0", " "),
    }


def is_open(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").exists()


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def drawn() -> list[str]:
    """What must differ from process to process."""
    return [str(random.random()), str(uuid.uuid4())]


def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()


async def started_another(stay: bool) -> None:
    launcher = ForkLauncher([MODULE])
    child = await launcher.launch(
        Command(module=MODULE, arguments=("wait" if stay else "report",), heavy=True)
    )
    say({"child": child.pid, "inherited": launcher._server is not None})
    await child.wait()
    await launcher.close()


def main() -> None:
    what, *more = sys.argv[1:]
    deeds = {
        "report": lambda: say(report()),
        "draw": lambda: say(drawn()),
        "exit": lambda: sys.exit(int(more[0])),
        "refuse": lambda: sys.exit("cannot"),
        "fail": lambda: 1 // 0,
        "interrupt": interrupted,
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "wait": signal.pause,
        "say at the end": lambda: atexit.register(sys.stdout.write, "the end\n"),
        "write": lambda: os.write(int(more[0]), b"hello"),
        "start": lambda: asyncio.run(started_another(stay=False)),
        "start and wait": lambda: asyncio.run(started_another(stay=True)),
    }
    deeds[what]()


if __name__ == "__main__":
    main()
