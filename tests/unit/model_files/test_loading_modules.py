import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from safetensors.torch import load_file, save_file

from services.model_files.directory import ModelDirectory
from services.model_files.modules import components_of, load_module
from services.torch_setup.runtime import torch_device, torch_dtype
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError

DEMO = Path(__file__).parents[3] / "models" / "demo"
CPU = torch.device("cpu")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A model directory that holds a VAE alone."""
    shutil.copy(DEMO / "model_index.json", tmp_path)
    shutil.copytree(DEMO / "vae", tmp_path / "vae")
    return tmp_path


def load(path: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return load_module(AutoencoderKLQwenImage, ModelDirectory(path), "vae", dtype, CPU)


def rewrite(path: Path, change: dict[str, torch.Tensor | None]) -> None:
    file = path / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file) | change
    save_file({name: each for name, each in tensors.items() if each is not None}, file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_module_is_ready_for_inference(copy: Path, dtype: torch.dtype) -> None:
    module = load(copy, dtype)
    assert not module.training
    assert {each.dtype for each in module.parameters()} == {dtype}
    assert not any(each.requires_grad for each in module.parameters())


def test_a_weight_the_file_lacks_is_refused_rather_than_drawn_at_random(copy: Path) -> None:
    rewrite(copy, {"post_quant_conv.weight": None})
    with pytest.raises(ConfigurationError, match=r"1 weights are missing.*post_quant_conv\.weight"):
        load(copy)


def test_a_weight_of_another_shape_is_refused(copy: Path) -> None:
    rewrite(copy, {"post_quant_conv.weight": torch.zeros(3)})
    with pytest.raises(ConfigurationError, match=r"vae: .*post_quant_conv"):
        load(copy)


def test_a_configuration_of_another_architecture_is_refused(copy: Path) -> None:
    file = copy / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_res_blocks": 2}))
    with pytest.raises(ConfigurationError, match=r"vae: \d+ weights are missing"):
        load(copy)


def test_a_configuration_of_another_class_is_refused(copy: Path) -> None:
    file = copy / "vae" / "config.json"
    file.write_text(json.dumps({"_class_name": "AutoencoderKLQwenImage", "base_dim": "wide"}))
    with pytest.raises(ConfigurationError, match="vae: cannot be loaded"):
        load(copy)


def test_components_are_weighed_in_the_type_they_are_held_in() -> None:
    shared = torch.nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
    module = torch.nn.Sequential(shared, shared, torch.nn.Linear(4, 1, dtype=torch.float32))
    (component,) = components_of({"transformer": module})
    assert component.name == "transformer"
    assert component.parameter_count == 16 + 5
    assert component.size_bytes == 16 * 2 + 5 * 4


@pytest.mark.parametrize("name", ["gpu", "cpu:x", "cuda:77", "meta "])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"device: '{name}' cannot be used"):
        torch_device(name)


def test_weights_compute_in_floating_point_types_alone() -> None:
    assert torch_dtype(ElementType.BFLOAT16) is torch.bfloat16
    with pytest.raises(ConfigurationError, match="dtype: is int64; allowed are float32, bfloat16"):
        torch_dtype(ElementType.INT64)


def test_a_tensor_that_the_model_has_no_place_for_is_refused_before_any_is_read(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(copy, {"encoder.conv_in.lora_A.weight": torch.zeros(4, 4)})
    monkeypatch.setattr(AutoencoderKLQwenImage, "from_pretrained", None)
    place = r"diffusion_pytorch_model\.safetensors: encoder\.conv_in\.lora_A\.weight has no place"
    with pytest.raises(ConfigurationError, match=place):
        load(copy)


def test_weights_that_are_not_finite_are_refused(copy: Path) -> None:
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)["decoder.conv_in.weight"]
    weights.view(-1)[7] = float("nan")
    rewrite(copy, {"decoder.conv_in.weight": weights})
    with pytest.raises(ConfigurationError, match=r"vae: decoder\.conv_in\.weight holds numbers"):
        load(copy)


def test_weights_too_large_for_the_type_they_are_served_in_are_refused(copy: Path) -> None:
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    rewrite(copy, {"post_quant_conv.bias": load_file(file)["post_quant_conv.bias"] + 1e5})
    assert load(copy)
    with pytest.raises(ConfigurationError, match="not finite as float16"):
        load(copy, torch.float16)
