"""A process whose libraries say something.

python -m tests.unit.torch_setup.talkative_libraries prompts|log
"""

import sys

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from services.observability.logs import configure
from services.torch_setup.runtime import set_up_torch


def prompts() -> None:
    pipeline = diffusers_logging.get_logger("diffusers.pipelines.flux.pipeline_flux")
    pipeline.warning("cut: public")
    set_up_torch(1)
    pipeline.warning("cut: secret")


def log() -> None:
    configure("encoder", "info", "json")
    set_up_torch(1)
    transformers_logging.get_logger("transformers.modeling_utils").warning("said by transformers")
    diffusers_logging.get_logger("diffusers.models").error("said by diffusers")


if __name__ == "__main__":
    {"prompts": prompts, "log": log}[sys.argv[1]]()
