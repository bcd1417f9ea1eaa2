import json
from collections.abc import Callable
from pathlib import Path

import pytest

from services.loaded_models.loading import (
    describe_model,
    load_denoiser,
    load_encoder,
    load_vae,
)
from services.model_families import find_family
from services.model_files.directory import ModelDirectory
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError, InvalidRequest
from triptych.domain.generation import GenerationRequest, resolve
from triptych.domain.model import GenerationDefaults, ModelInfo, Stage

Configure = Callable[..., None]
FLOAT32 = ElementType.FLOAT32


def describe(path: Path, name: str | None = None) -> ModelInfo:
    directory = ModelDirectory(path)
    return describe_model(directory, find_family(directory), name, FLOAT32)


def test_a_directory_without_a_manifest_has_the_published_defaults(demo: Path) -> None:
    (demo / "triptych.json").unlink()
    model = describe(demo)
    assert model.name == "demo"
    assert model.capabilities.defaults == GenerationDefaults(
        width=1024, height=1024, steps=50, guidance_scale=4.0, negative_prompt=" "
    )


def test_a_manifest_names_the_model_unless_the_process_was_told_otherwise(demo: Path) -> None:
    assert describe(demo).name == "triptych-demo"
    assert describe(demo, "painter").name == "painter"


def test_sizes_follow_the_vae(demo: Path, configure: Configure) -> None:
    assert describe(demo).capabilities.size_multiple == 16
    configure("vae/config.json", temperal_downsample=[False, True])
    assert describe(demo).capabilities.size_multiple == 8
    configure("vae/config.json", temperal_downsample=None)
    with pytest.raises(ConfigurationError, match="temperal_downsample is None"):
        describe(demo)


def test_a_single_step_is_refused(demo: Path) -> None:
    request = GenerationRequest(prompt="a circle", steps=1)
    with pytest.raises(InvalidRequest, match="steps: is 1; allowed are 2 to 200"):
        resolve(request, describe(demo), draw_seed=lambda: 0)


@pytest.mark.parametrize(
    ("defaults", "field"),
    [
        ({"width": 100}, "width"),
        ({"steps": 1}, "steps"),
        ({"guidance_scale": 0.5}, "guidance_scale"),
        ({"width": 4096, "height": 4096}, "width"),
    ],
    ids=str,
)
def test_defaults_that_no_request_could_have_are_refused(
    demo: Path, defaults: dict[str, object], field: str
) -> None:
    (demo / "triptych.json").write_text(json.dumps({"defaults": defaults}))
    with pytest.raises(ConfigurationError, match=f"defaults of demo: {field}: "):
        describe(demo)


@pytest.mark.parametrize("name", ["", "two words", "-x", "a" * 65, "../demo"])
def test_a_name_that_no_request_could_have_is_refused(demo: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"model name: .*--model-name.*; allowed are"):
        describe(demo, name)
    (demo / "triptych.json").write_text(json.dumps({"name": name or "-"}))
    with pytest.raises(ConfigurationError, match=r"model name: .*triptych\.json, cannot be used"):
        describe(demo)


@pytest.mark.parametrize(
    ("subfolder", "stage"), [("scheduler", Stage.DENOISER), ("text_encoder", Stage.ENCODER)]
)
def test_a_component_of_another_class_is_refused(
    demo: Path, configure: Configure, subfolder: str, stage: Stage
) -> None:
    configure("model_index.json", **{subfolder: ["diffusers", "Another"]})
    directory = ModelDirectory(demo)
    with pytest.raises(ConfigurationError, match=f"{subfolder} is a Another; QwenImagePipeline is"):
        find_family(directory).spec.check(directory, stage)


def test_a_guidance_distilled_transformer_is_refused(demo: Path, configure: Configure) -> None:
    configure("transformer/config.json", guidance_embeds=True)
    # Which belongs to another transformer now.
    (demo / "cache_profile.json").unlink()
    with pytest.raises(ConfigurationError, match="guidance_embeds is true; guidance is not"):
        load_denoiser(demo, None, FLOAT32, "cpu")


def test_a_scheduler_that_a_seed_does_not_decide_is_refused(
    demo: Path, configure: Configure
) -> None:
    configure("scheduler/scheduler_config.json", stochastic_sampling=True)
    with pytest.raises(ConfigurationError, match="stochastic_sampling is true; a seed would not"):
        load_denoiser(demo, None, FLOAT32, "cpu")


@pytest.mark.parametrize("text", ['{"half": ', "[]"])
@pytest.mark.parametrize(
    ("load", "damaged"),
    [
        (load_encoder, "tokenizer/tokenizer.json"),
        (load_encoder, "tokenizer/tokenizer_config.json"),
        (load_encoder, "text_encoder/config.json"),
        (load_denoiser, "scheduler/scheduler_config.json"),
        (load_vae, "vae/config.json"),
    ],
)
def test_a_damaged_file_stops_the_stage_that_needs_it_with_its_name(
    demo: Path, load: Callable[..., object], damaged: str, text: str
) -> None:
    (demo / damaged).write_text(text)
    with pytest.raises(ConfigurationError, match=str((demo / damaged).parent)):
        load(demo, None, FLOAT32, "cpu")


def test_a_tokenizer_that_is_none_is_refused(demo: Path) -> None:
    (demo / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json: cannot be loaded: KeyError"):
        load_encoder(demo, None, FLOAT32, "cpu")
