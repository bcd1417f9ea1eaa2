import json
from pathlib import Path

import pytest
import torch

from services.model_files.configuration import image_scale_factor
from services.model_files.directory import ModelDirectory
from services.numerics.image_vae import load
from tests.checkpoints.vaes import flux_vae
from triptych.domain.errors import ConfigurationError


@pytest.fixture
def directory(tmp_path: Path) -> ModelDirectory:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "SomePipeline"}))
    flux_vae().save_pretrained(tmp_path / "vae")
    return ModelDirectory(tmp_path)


def configured(directory: ModelDirectory, **values: object) -> ModelDirectory:
    file = directory.path / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return ModelDirectory(directory.path)


def test_sizes_follow_the_levels_of_the_vae(directory: ModelDirectory) -> None:
    assert image_scale_factor(directory) == 8
    assert image_scale_factor(configured(directory, block_out_channels=[8])) == 1
    unsaid = configured(directory, block_out_channels=None)
    with pytest.raises(ConfigurationError, match="block_out_channels is None, not a list"):
        image_scale_factor(unsaid)


@pytest.mark.parametrize("option", ["scaling_factor", "shift_factor"])
def test_a_vae_that_does_not_say_how_latents_are_normalised_is_refused(
    directory: ModelDirectory, option: str
) -> None:
    load(directory, torch.float32, torch.device("cpu"))
    unsaid = configured(directory, **{option: None})
    with pytest.raises(ConfigurationError, match=f"{option} is None, not a number"):
        load(unsaid, torch.float32, torch.device("cpu"))
