import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
# The usual page faults of a thread that writes 64 MiB in pieces and frees them, after a first one.
PROGRAM = """
import resource, statistics, threading, torch
from services.torch_setup.memory import keep_freed_memory
print(keep_freed_memory())
def write():
    return [torch.ones(2**20) for _ in range(16)]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(statistics.median_low(faults() for _ in range(16)))
"""
PAGES = 2**26 // 4096


def _run(**environment: str) -> tuple[bool, int]:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, faults = ended.stdout.split()
    return kept == "True", int(faults)


def test_what_a_step_freed_is_written_again_without_page_faults() -> None:
    kept, faults = _run()
    assert kept
    assert faults < PAGES / 16


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_ARENA_MAX", "8"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=8")],
)
def test_an_allocator_that_was_told_what_to_do_is_left_alone(name: str, value: str) -> None:
    kept, _ = _run(**{name: value})
    assert not kept
