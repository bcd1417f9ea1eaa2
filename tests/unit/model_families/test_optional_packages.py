"""Packages that pipelines use only where they are installed decide bits: all are declared."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from diffusers.pipelines.flux import pipeline_flux
from diffusers.pipelines.longcat_image import pipeline_longcat_image, pipeline_longcat_image_edit
from diffusers.pipelines.ovis_image import pipeline_ovis_image
from diffusers.pipelines.qwenimage import (
    pipeline_qwenimage,
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_plus,
    pipeline_qwenimage_layered,
)
from diffusers.pipelines.stable_diffusion_3 import pipeline_stable_diffusion_3
from diffusers.pipelines.wan import pipeline_wan
from diffusers.pipelines.z_image import pipeline_z_image

from services.loaded_models.conditioning_encoder import _LIBRARIES

ROOT = Path(__file__).parents[3]
PIPELINES = (
    pipeline_flux,
    pipeline_longcat_image,
    pipeline_longcat_image_edit,
    pipeline_ovis_image,
    pipeline_qwenimage,
    pipeline_qwenimage_edit,
    pipeline_qwenimage_edit_plus,
    pipeline_qwenimage_layered,
    pipeline_stable_diffusion_3,
    pipeline_wan,
    pipeline_z_image,
)
# It is only told to wait for a kind of device that nothing here is served on.
OF_NO_EFFECT = {"torch_xla"}


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda module: module.__name__)
def test_what_a_pipeline_uses_if_it_is_there_is_declared(pipeline: object) -> None:
    source = Path(str(pipeline.__file__)).read_text()  # type: ignore[attr-defined]
    used = set(re.findall(r"is_(\w+)_available\(", source)) - OF_NO_EFFECT
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stages = " ".join(project["optional-dependencies"]["stages"])
    assert all(re.search(rf"\b{package}\b", stages) for package in used), used


def test_what_decides_how_prompts_are_read_decides_what_is_remembered() -> None:
    assert "ftfy" in _LIBRARIES
    assert version("ftfy")
    assert pipeline_wan.prompt_clean("\N{FULLWIDTH COMMA}\u201cred\u201d") == ',"red"'
