from pathlib import Path

import pytest

from services.loaded_models.loading import load_encoder
from services.loaded_models.stage_model import StageModel
from services.model_ports.encoding import encode_all
from services.model_ports.stages import EncoderModel
from tests.checkpoints import checkpoint
from triptych.domain.element_type import ElementType
from triptych.domain.generation import GenerationRequest, resolve
from triptych.domain.model import GenerationDefaults


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> StageModel[EncoderModel]:
    whole: Path = checkpoint("ovis-image-7b", tmp_path_factory.mktemp("checkpoint"))
    return load_encoder(whole, None, ElementType.FLOAT32, "cpu")


def test_what_a_request_leaves_out_is_as_published(encoder: StageModel[EncoderModel]) -> None:
    assert encoder.loaded.model.capabilities.defaults == GenerationDefaults(
        width=1024, height=1024, steps=50, guidance_scale=5.0, negative_prompt=""
    )


@pytest.mark.parametrize(
    ("scale", "names"),
    [(1.0, {"prompt_embeds"}), (1.01, {"prompt_embeds", "negative_prompt_embeds"})],
)
def test_guidance_above_one_runs_a_second_branch(
    encoder: StageModel[EncoderModel], scale: float, names: set[str]
) -> None:
    request = GenerationRequest(prompt="a circle", guidance_scale=scale)
    parameters = resolve(request, encoder.loaded.model, draw_seed=lambda: 0)
    tensors = encode_all(encoder.model.encodings(parameters))
    assert tensors.keys() == names
    assert {tensor.shape[:2] for tensor in tensors.values()} == {(1, 256)}
