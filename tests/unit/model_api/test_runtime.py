import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_what_libraries_say_about_prompts_is_not_written_to_the_log() -> None:
    program = """
from diffusers.utils import logging
from services.model_api.runtime import set_up_torch
pipeline = logging.get_logger("diffusers.pipelines.flux.pipeline_flux")
pipeline.warning("cut: public")
set_up_torch(1)
pipeline.warning("cut: secret")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "public" in ended.stderr
    assert "secret" not in ended.stdout + ended.stderr
