"""The processes a phase trains in: one thread each, joined by gloo on a local file."""

import ctypes
import logging
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

LOG_FORMAT = "%(asctime)s %(message)s"

Job = TypeVar("Job")

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def steady_process() -> None:
    """Makes this process fast on a shared machine: one thread, and memory is kept.

    Several threads spin at barriers while another job holds their core, and giving memory back
    to the kernel costs a page fault per page on every step.
    """
    torch.set_num_threads(1)
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_MMAP_THRESHOLD, 2**30)


def run_ranks(entry: Callable[[int, Job], None], job: Job, processes: int, meeting: Path) -> None:
    """Runs `entry(rank, job)` in as many processes, and waits for all of them.

    Args:
        entry: A module-level function.
        job: What every rank is told; it must survive being sent to another process.
        processes: How many ranks; one runs right here.
        meeting: A file that does not matter otherwise, through which the ranks find each other.

    Raises:
        RuntimeError: A rank failed.
    """
    if processes == 1:
        steady_process()
        entry(0, job)
        return
    meeting.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")
    ranks = [
        context.Process(target=_rank, args=(entry, job, rank, processes, meeting), daemon=True)
        for rank in range(processes)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    meeting.unlink(missing_ok=True)
    failed = [index for index, rank in enumerate(ranks) if rank.exitcode != 0]
    if failed:
        raise RuntimeError(f"ranks {failed} of {processes} failed")


def _rank(
    entry: Callable[[int, Job], None], job: Job, rank: int, processes: int, meeting: Path
) -> None:
    # A spawned process starts without the parent's handlers.
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    steady_process()
    torch.distributed.init_process_group(
        "gloo", init_method=meeting.absolute().as_uri(), rank=rank, world_size=processes
    )
    try:
        entry(rank, job)
    finally:
        torch.distributed.destroy_process_group()
