"""Special tokens in prompts: read as text, or refused where a model takes them for a picture."""

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

from services.loaded_models.loading import load_encoder
from services.loaded_models.stage_model import StageModel
from services.model_ports.encoding import encode_all
from services.model_ports.stages import EncoderModel
from tests.checkpoints import MODELS, checkpoint
from tests.conformance.pictures import described, pictures_of
from triptych.domain.element_type import ElementType
from triptych.domain.errors import InvalidRequest
from triptych.domain.generation import GenerationRequest, resolve

pytestmark = pytest.mark.slow

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
REFUSED = {
    "qwen-image-edit": {IMAGE, VIDEO},
    "qwen-image-edit-2509": {IMAGE, VIDEO},
    "longcat-image-edit": {IMAGE},
}


def encode(model: StageModel[EncoderModel], **asked: object) -> None:
    served = model.loaded.model
    limits = served.capabilities
    pictures = max(1, limits.min_images) if limits.max_images else 0
    asked = {"prompt": "a circle", "seed": 1, "images": described(pictures)} | asked
    request = GenerationRequest(**asked)
    parameters = resolve(request, served, draw_seed=lambda: 0)
    encode_all(model.model.encodings(parameters, pictures_of(parameters)))


def special_tokens(model: Path) -> set[str]:
    files = [*model.glob("tokenizer*/tokenizer.json"), *model.glob("tokenizer.json")]
    added = [json.loads(file.read_text())["added_tokens"] for file in files]
    return {token["content"] for tokens in added for token in tokens}


@pytest.mark.parametrize("name", MODELS)
def test_a_special_token_is_read_or_refused_by_its_field(name: str, tmp_path: Path) -> None:
    folder = checkpoint(name, tmp_path)
    model = load_encoder(folder, None, ElementType.FLOAT32, "cpu")
    tokens = special_tokens(folder)
    assert tokens >= REFUSED.get(name, set())
    refused = set()
    for token in sorted(tokens):
        with suppress(InvalidRequest):
            encode(model, prompt=f"a {token} b")
            continue
        refused.add(token)
    assert refused == REFUSED.get(name, set())
    for token in refused:
        for field in ("prompt", "negative_prompt"):
            with pytest.raises(
                InvalidRequest, match=f"{field}: contains {re.escape(token)}, which"
            ):
                encode(model, **{field: token})
