"""The `triptych` command as a process."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from pathlib import Path

from tests import processes


@dataclass
class Ended:
    """A command that has ended."""

    code: int | None
    out: str
    err: str


async def start(*arguments: str, directory: Path | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "triptych", *arguments), stdout=PIPE, stderr=PIPE, cwd=directory
    )


async def end(process: asyncio.subprocess.Process) -> Ended:
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return Ended(process.returncode, out.decode(), err.decode())


async def run(*arguments: str, directory: Path | None = None) -> Ended:
    if directory is not None:
        return await end(await start(*arguments, directory=directory))
    ended = await asyncio.to_thread(processes.run, "triptych", *arguments)
    return Ended(ended.returncode, ended.stdout, ended.stderr)
