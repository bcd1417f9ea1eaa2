"""Weight files that hold more, or less, than their model has places for, in all families."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.loaded_models.loading import load_denoiser, load_encoder, load_vae
from services.model_families import find_family
from services.model_files.directory import ModelDirectory
from tests.checkpoints import MODELS, checkpoint
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError
from triptych.domain.model import Stage

LOAD = {Stage.ENCODER: load_encoder, Stage.DENOISER: load_denoiser, Stage.VAE: load_vae}
# As tools write them beside float8 weights, beside an adapter's, and where nobody can guess.
STRANGERS = ("{}.scale_weight", "{}.weight_scale", "{}.lora_A.weight", "stranger.weight")


@pytest.fixture(scope="module", params=MODELS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(request.param, tmp_path_factory.mktemp("checkpoint"))


def weight_files(model: Path) -> Iterator[tuple[Stage, Path]]:
    """By stage, the first weight file of each of its components."""
    directory = ModelDirectory(model)
    spec = find_family(directory).spec
    for stage in Stage:
        folders = {"": ""} if spec.files else dict.fromkeys(spec.weights[stage])
        files = spec.loaded_files(directory, stage)
        if spec.files:
            files = tuple(model / name for name in spec.files[stage])
        for folder in folders:
            yield (
                stage,
                next(
                    file
                    for file in files
                    if file.suffix == ".safetensors" and file.is_relative_to(model / folder)
                ),
            )


def a_matrix(tensors: dict[str, torch.Tensor], stage: Stage) -> str:
    """The name of one in a layer or a block, which nothing else shares."""
    # Of a file that several stages read, each minds its own.
    shared = any(name.startswith("language_model.model.layers.0.mlp_moe_gen") for name in tensors)
    own = "vit_model." if shared and stage is Stage.ENCODER else ""
    return min(
        name
        for name, tensor in tensors.items()
        if name.startswith(own)
        and tensor.ndim > 1
        and re.search(r"\.\d+\.", name)
        and name.endswith(".weight")
    )


def load(model: Path, stage: Stage) -> None:
    LOAD[stage](model, None, ElementType.FLOAT32, "cpu")


def test_a_tensor_without_a_place_is_refused_by_name_and_file(whole: Path) -> None:
    for number, (stage, file) in enumerate(weight_files(whole)):
        tensors = load_file(file)
        first = a_matrix(tensors, stage)
        stranger = STRANGERS[number % len(STRANGERS)].format(first.removesuffix(".weight"))
        data = file.read_bytes()
        save_file(tensors | {stranger: torch.ones(1)}, file, metadata={"format": "pt"})
        with pytest.raises(ConfigurationError) as refused:
            load(whole, stage)
        file.write_bytes(data)
        said = str(refused.value)
        assert said.startswith(f"{file}: {stranger} has no place in a "), said


def test_a_tensor_that_is_missing_is_refused_by_name(whole: Path) -> None:
    for stage, file in weight_files(whole):
        tensors = load_file(file)
        first = a_matrix(tensors, stage)
        data = file.read_bytes()
        kept = {name: tensor for name, tensor in tensors.items() if name != first}
        save_file(kept, file, metadata={"format": "pt"})
        with pytest.raises(ConfigurationError, match="missing") as refused:
            load(whole, stage)
        file.write_bytes(data)
        assert re.split(r"\.\d+\.", first)[-1] in str(refused.value), first


def test_a_guidance_embedder_that_the_configuration_does_not_name_is_refused(
    tmp_path: Path,
) -> None:
    model = checkpoint("flux.1-dev", tmp_path)
    file = model / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"guidance_embeds": False}))
    with pytest.raises(
        ConfigurationError, match=r"time_text_embed\.guidance_embedder\S+ has no place"
    ):
        load(model, Stage.DENOISER)


def test_what_a_fuller_version_has_besides_is_left_where_it_is(tmp_path: Path) -> None:
    model = checkpoint("z-image-turbo", tmp_path)
    file = model / "text_encoder" / "model.safetensors"
    tensors = {f"model.{name}": tensor for name, tensor in load_file(file).items()}
    head = torch.ones_like(tensors["model.embed_tokens.weight"])
    save_file(tensors | {"lm_head.weight": head}, file, metadata={"format": "pt"})
    load(model, Stage.ENCODER)
    shutil.rmtree(model)
