import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def _run(program: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended


def test_what_libraries_say_about_prompts_is_not_written_to_the_log() -> None:
    program = """
from diffusers.utils import logging
from services.torch_setup.runtime import set_up_torch
pipeline = logging.get_logger("diffusers.pipelines.flux.pipeline_flux")
pipeline.warning("cut: public")
set_up_torch(1)
pipeline.warning("cut: secret")
"""
    ended = _run(program)
    assert "public" in ended.stderr
    assert "secret" not in ended.stdout + ended.stderr


def test_what_libraries_say_has_the_form_of_the_log() -> None:
    program = """
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging
from services.torch_setup.runtime import set_up_torch
from services.observability.logs import configure
configure("encoder", "info", "json")
set_up_torch(1)
transformers_logging.get_logger("transformers.modeling_utils").warning("said by transformers")
diffusers_logging.get_logger("diffusers.models").error("said by diffusers")
"""
    ended = _run(program)
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
