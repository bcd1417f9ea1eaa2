from collections.abc import Callable
from pathlib import Path

import pytest

from services.domain.element_type import ElementType
from services.domain.errors import InvalidRequest
from services.domain.generation import GenerationParameters, GenerationRequest, resolve
from services.domain.model import GenerationDefaults, Stage
from services.model_api.stage_model import StageModel
from services.model_api.stages import EncoderModel
from services.model_families.loading import load_encoder
from services.model_families.longcat_image.spec import SPEC
from tests.checkpoints import checkpoint

Ask = Callable[..., GenerationParameters]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> StageModel[EncoderModel]:
    whole: Path = checkpoint("longcat-image", tmp_path_factory.mktemp("checkpoint"))
    return load_encoder(whole, None, ElementType.FLOAT32, "cpu")


@pytest.fixture
def ask(encoder: StageModel[EncoderModel]) -> Ask:
    def ask(**asked: object) -> GenerationParameters:
        request = GenerationRequest.model_validate({"prompt": "a circle"} | asked)
        return resolve(request, encoder.loaded.model, draw_seed=lambda: 0)

    return ask


def test_what_a_request_leaves_out_is_as_published(encoder: StageModel[EncoderModel]) -> None:
    assert encoder.loaded.model.capabilities.defaults == GenerationDefaults(
        width=1024, height=1024, steps=50, guidance_scale=4.5, negative_prompt=""
    )


def test_no_stage_needs_the_processor_that_rewriting_prompts_would() -> None:
    needed = {
        subfolder for stage in Stage for subfolder in (*SPEC.weights[stage], *SPEC.configs[stage])
    }
    assert needed == {"text_encoder", "tokenizer", "transformer", "scheduler", "vae"}


@pytest.mark.parametrize(
    ("quotes", "tokens"),
    # The vocabulary spells typographic quotes byte by byte.
    [("''", 602), ('""', 602), ("\u2018\u2019", 606), ("\u201c\u201d", 606)],
)
def test_quoted_characters_count_one_by_one(
    encoder: StageModel[EncoderModel], ask: Ask, quotes: str, tokens: int
) -> None:
    # One token a word outside quotes; inside, one for the space and five for its letters.
    words = " image" * 100
    encoder.model.encode(ask(prompt=words))
    with pytest.raises(
        InvalidRequest, match=f"^prompt: has {tokens} tokens; allowed are at most 512$"
    ):
        encoder.model.encode(ask(prompt=quotes[0] + words + quotes[1]))


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_words_that_the_model_would_take_for_one_another_are_refused(
    encoder: StageModel[EncoderModel], ask: Ask, field: str
) -> None:
    encoder.model.encode(ask(**{field: "it's a dog, isn\u2019t it? it's 'me'"}))
    with pytest.raises(InvalidRequest, match=rf"^{field}: contains different words with ' inside"):
        encoder.model.encode(ask(**{field: "it's a dog, isn't it?"}))
