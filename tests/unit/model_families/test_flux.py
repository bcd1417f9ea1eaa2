import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.loaded_models.loading import load_encoder
from services.loaded_models.stage_model import StageModel
from services.model_families.flux.spec import SPECS
from services.model_files.directory import ModelDirectory
from services.model_ports.encoding import encode_all
from services.model_ports.stages import EncoderModel
from tests.checkpoints import checkpoint
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest
from triptych.domain.family_options import FluxOptions
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.model import GenerationDefaults, ModelInfo

(SPEC,) = SPECS

Ask = Callable[..., GenerationParameters]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint("flux.1-dev", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def encoder(whole: Path) -> StageModel[EncoderModel]:
    return load_encoder(whole, None, ElementType.FLOAT32, "cpu")


@pytest.fixture
def ask(encoder: StageModel[EncoderModel]) -> Ask:
    def ask(**asked: object) -> GenerationParameters:
        request = GenerationRequest(**({"prompt": "a circle", "seed": 1} | asked))
        return resolve(request, encoder.loaded.model, draw_seed=lambda: 0)

    return ask


def test_what_a_request_leaves_out_is_as_published(whole: Path) -> None:
    assert SPEC.capabilities(ModelDirectory(whole)).defaults == GenerationDefaults(
        width=1024, height=1024, steps=28, guidance_scale=3.5, negative_prompt=""
    )


def test_a_transformer_without_guidance_draws_in_four_steps_and_takes_no_scale(
    whole: Path, tmp_path: Path
) -> None:
    for name, config in {
        "model_index.json": {"_class_name": "FluxPipeline"},
        "vae/config.json": {"block_out_channels": [8, 16, 16, 16]},
        "transformer/config.json": {
            "guidance_embeds": False,
            "num_layers": 19,
            "num_single_layers": 38,
            "num_attention_heads": 24,
        },
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(config))
    capabilities = SPEC.capabilities(ModelDirectory(tmp_path))
    assert (capabilities.defaults.steps, capabilities.defaults.guidance_scale) == (4, 0.0)
    assert not capabilities.supports_guidance
    assert SPEC.capabilities(ModelDirectory(whole)).supports_guidance


def test_a_transformer_without_guidance_refuses_every_scale_but_none(whole: Path) -> None:
    directory = ModelDirectory(whole)
    capabilities = replace(SPEC.capabilities(directory), supports_guidance=False)
    model = ModelInfo(
        name="schnell", family="flux", capabilities=capabilities, dtype=ElementType.FLOAT32
    )
    for scale in (0.5, 1.0, 3.5):
        request = GenerationRequest(prompt="a circle", guidance_scale=scale)
        with pytest.raises(InvalidRequest, match=r"guidance_scale: is .*has no guidance"):
            resolve(request, model, draw_seed=lambda: 0)


@pytest.mark.parametrize("options", [None, FluxOptions(), FluxOptions(true_guidance_scale=1.0)])
def test_a_negative_prompt_is_refused_without_true_guidance_at_any_scale(
    ask: Ask, options: FluxOptions | None
) -> None:
    assert ask(guidance_scale=30.0, options=options).negative_prompt is None
    refusal = r"^negative_prompt: has no effect unless flux\.true_guidance_scale is above 1"
    with pytest.raises(InvalidRequest, match=refusal):
        ask(negative_prompt="grey", guidance_scale=30.0, options=options)


def test_true_guidance_takes_the_empty_negative_prompt_unless_there_is_another(ask: Ask) -> None:
    options = FluxOptions(true_guidance_scale=1.5)
    assert ask(guidance_scale=0.0, options=options).negative_prompt == ""
    assert ask(negative_prompt="grey", options=options).negative_prompt == "grey"


@pytest.mark.parametrize("scale", [0.0, 20.5, math.nan, math.inf])
def test_true_guidance_outside_its_range_is_refused(ask: Ask, scale: float) -> None:
    with pytest.raises(
        InvalidRequest, match=r"flux\.true_guidance_scale: is .*allowed are 1 to 20"
    ):
        ask(options=FluxOptions(true_guidance_scale=scale))


def test_clip_summarises_the_beginning_of_a_prompt_that_t5_reads_whole(
    encoder: StageModel[EncoderModel], ask: Ask
) -> None:
    long = "7" * 400
    first, second = (encode_all(encoder.model.encodings(ask(prompt=long + last))) for last in "78")
    assert torch.equal(first["pooled_prompt_embeds"], second["pooled_prompt_embeds"])
    assert not torch.equal(first["prompt_embeds"], second["prompt_embeds"])
