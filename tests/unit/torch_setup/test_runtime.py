import json
import os
import subprocess
import sys
from pathlib import Path

from tests.processes import run

ROOT = Path(__file__).parents[3]


def test_what_libraries_say_about_prompts_is_not_written_to_the_log() -> None:
    ended = run("tests.unit.torch_setup.talkative_libraries", "prompts")
    assert ended.returncode == 0, ended.stderr
    assert "public" in ended.stderr
    assert "secret" not in ended.stdout + ended.stderr


def test_what_libraries_say_has_the_form_of_the_log() -> None:
    ended = run("tests.unit.torch_setup.talkative_libraries", "log")
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["said by transformers", "said by diffusers"]
    assert {line["process"] for line in lines} == {"encoder"}


def test_the_first_kernel_of_every_thread_that_computes_has_the_bits_of_all_others() -> None:
    # As on a host with two cores, whatever the one that tests has.
    environment = os.environ | {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.rpc.first_kernels"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
