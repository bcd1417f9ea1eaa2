import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from diffusers import LongCatImagePipeline

from services.loaded_models.loading import load_denoiser, load_encoder
from services.loaded_models.stage_model import StageModel
from services.model_families.longcat_image.encoder import LongCatImageEncoder
from services.model_families.longcat_image.spec import SPECS
from services.model_ports.encoding import encode_all
from services.model_ports.stages import EncoderModel
from tests.checkpoints import checkpoint
from tests.checkpoints.stock import stock_pipeline
from triptych.domain.element_type import ElementType
from triptych.domain.errors import ConfigurationError, InvalidRequest
from triptych.domain.family_options import LongCatOptions
from triptych.domain.generation import GenerationParameters, GenerationRequest, resolve
from triptych.domain.model import GenerationDefaults, Stage

pytestmark = pytest.mark.slow

SPEC, _ = SPECS

Ask = Callable[..., GenerationParameters]
REWRITE = LongCatOptions(rewrite_prompt=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = checkpoint("longcat-image", tmp_path_factory.mktemp("checkpoint"))
    # The language model draws its words, as those of the published model may. Some end its speech.
    file = path / "text_encoder" / "generation_config.json"
    words = {"do_sample": True, "eos_token_id": [360, *range(0, 360, 30)]}
    file.write_text(json.dumps(json.loads(file.read_text()) | words))
    return path


@pytest.fixture(scope="module")
def encoder(directory: Path) -> StageModel[EncoderModel]:
    return load_encoder(directory, None, ElementType.FLOAT32, "cpu")


@pytest.fixture
def ask(encoder: StageModel[EncoderModel]) -> Ask:
    def ask(**asked: object) -> GenerationParameters:
        request = GenerationRequest(**({"prompt": "a circle"} | asked))
        return resolve(request, encoder.loaded.model, draw_seed=lambda: 0)

    return ask


@pytest.fixture
def rewrite(encoder: StageModel[EncoderModel], ask: Ask) -> Callable[..., str | None]:
    def rewrite(**asked: object) -> str | None:
        assert isinstance(encoder.model, LongCatImageEncoder)
        return encoder.model.write_prompt(ask(**({"options": REWRITE} | asked)), ())

    return rewrite


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts words into the language model's mouth."""

    def writes(words: str) -> None:
        monkeypatch.setattr(LongCatImagePipeline, "rewire_prompt", lambda *_: [words])

    return writes


def drawn(
    directory: Path, dtype: ElementType, parameters: GenerationParameters, prompt: str
) -> torch.Tensor:
    told = replace(parameters, prompt=prompt)
    conditioning = encode_all(load_encoder(directory, None, dtype, "cpu").model.encodings(told))
    denoiser = load_denoiser(directory, None, dtype, "cpu").model
    state = denoiser.prepare(parameters, conditioning)
    for _ in range(state.total_steps):
        denoiser.step(state)
    return denoiser.finish(state)["latents"]


def published(
    directory: Path, dtype: ElementType, parameters: GenerationParameters
) -> torch.Tensor:
    pipeline = stock_pipeline(directory, getattr(torch, dtype))
    torch.manual_seed(parameters.seed)
    packed = pipeline(
        prompt=parameters.prompt,
        negative_prompt=parameters.negative_prompt,
        guidance_scale=parameters.guidance_scale,
        width=parameters.width,
        height=parameters.height,
        num_inference_steps=parameters.steps,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
        enable_prompt_rewrite=True,
        output_type="latent",
    ).images
    latents = pipeline._unpack_latents(packed, parameters.height, parameters.width, 8)
    return cast("torch.Tensor", latents)


def test_what_a_request_leaves_out_is_as_published(encoder: StageModel[EncoderModel]) -> None:
    assert encoder.loaded.model.capabilities.defaults == GenerationDefaults(
        width=1024, height=1024, steps=50, guidance_scale=4.5, negative_prompt=""
    )


def test_only_the_encoder_needs_the_processor_that_rewrites_prompts() -> None:
    needed = {stage for stage in Stage if "text_processor" in SPEC.configs[stage]}
    assert needed == {Stage.ENCODER}


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
    encode_all(encoder.model.encodings(ask(prompt=words)))
    with pytest.raises(
        InvalidRequest, match=f"^prompt: has {tokens} tokens; allowed are at most 512$"
    ):
        encode_all(encoder.model.encodings(ask(prompt=quotes[0] + words + quotes[1])))


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_words_that_the_model_would_take_for_one_another_are_refused(
    encoder: StageModel[EncoderModel], ask: Ask, field: str
) -> None:
    encode_all(encoder.model.encodings(ask(**{field: "it's a dog, isn\u2019t it? it's 'me'"})))
    with pytest.raises(InvalidRequest, match=rf"^{field}: contains different words with ' inside"):
        encode_all(encoder.model.encodings(ask(**{field: "it's a dog, isn't it?"})))


def test_a_prompt_is_drawn_as_it_was_written_unless_a_request_says_otherwise(
    ask: Ask, rewrite: Callable[..., str | None]
) -> None:
    assert ask().options == LongCatOptions(rewrite_prompt=False)
    assert rewrite(options=None) is None


@pytest.mark.parametrize(
    ("dtype", "prompt"),
    [(ElementType.FLOAT32, "a red circle"), (ElementType.BFLOAT16, "红色的圆")],
)
def test_a_rewritten_prompt_is_drawn_as_the_published_pipeline_draws_it(
    directory: Path, ask: Ask, dtype: ElementType, prompt: str
) -> None:
    small = {"width": 32, "height": 48, "steps": 2, "seed": 5}
    parameters = ask(prompt=prompt, negative_prompt="grey", options=REWRITE, **small)
    encoder = load_encoder(directory, None, dtype, "cpu").model
    assert isinstance(encoder, LongCatImageEncoder)
    torch.manual_seed(0)
    written = encoder.write_prompt(parameters, ())
    assert written
    ours = drawn(directory, dtype, parameters, written)
    assert torch.equal(ours, published(directory, dtype, parameters))
    assert not torch.equal(ours, drawn(directory, dtype, parameters, prompt))


def test_the_seed_and_the_prompt_alone_decide_the_rewritten_prompt(
    rewrite: Callable[..., str | None],
) -> None:
    torch.manual_seed(11)
    first = [rewrite(seed=seed) for seed in (0, 2**63 - 1)]
    torch.manual_seed(12)
    assert [rewrite(seed=seed) for seed in (0, 2**63 - 1)] == first
    assert first[0] != first[1]
    assert rewrite(seed=0, prompt="two cats") != first[0]


def test_rewriting_draws_nothing_from_the_generator_that_others_share(
    rewrite: Callable[..., str | None],
) -> None:
    before = torch.random.get_rng_state()
    rewrite()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("7" * 513, "has 513 tokens; allowed are at most 512"),
        ("'" + " image" * 100 + "'", "has 602 tokens; allowed are at most 512"),
        (" \n", "is empty"),
    ],
    ids=["too long", "too much in quotes", "empty"],
)
def test_a_rewritten_prompt_that_cannot_be_drawn_is_refused_as_such(
    rewrite: Callable[..., str | None], writes: Callable[[str], None], words: str, why: str
) -> None:
    writes(words)
    with pytest.raises(
        InvalidRequest,
        match=f"^long_cat.rewrite_prompt: made of this prompt one that {why}; change the prompt",
    ):
        rewrite()


def test_a_rewritten_prompt_that_would_be_garbled_gets_other_apostrophes(
    encoder: StageModel[EncoderModel],
    ask: Ask,
    rewrite: Callable[..., str | None],
    writes: Callable[[str], None],
) -> None:
    writes("the dog's bone isn't 'old'")
    written = rewrite()
    assert written == "the dog\u2019s bone isn\u2019t 'old'"
    encode_all(encoder.model.encodings(ask(prompt=written)))


def test_a_rewritten_prompt_that_is_read_as_it_is_keeps_its_apostrophes(
    rewrite: Callable[..., str | None], writes: Callable[[str], None]
) -> None:
    writes("the dog's bone, and a dog's 'name'")
    assert rewrite() == "the dog's bone, and a dog's 'name'"


@pytest.mark.parametrize("placeholder", ["<|image_pad|>", "<|video_pad|>"])
def test_a_prompt_that_the_language_model_would_take_for_a_picture_is_not_rewritten(
    encoder: StageModel[EncoderModel],
    ask: Ask,
    rewrite: Callable[..., str | None],
    placeholder: str,
) -> None:
    prompt = f"a {placeholder} circle"
    refusal = f"prompt: contains {placeholder}, which this model takes for a picture; leave it out"
    with pytest.raises(InvalidRequest) as refused:
        rewrite(prompt=prompt)
    assert str(refused.value) == refusal
    encode_all(encoder.model.encodings(ask(prompt=prompt)))


def test_a_model_that_cannot_hold_a_conversation_is_not_loaded(tmp_path: Path) -> None:
    path = checkpoint("longcat-image", tmp_path)
    (path / "text_processor" / "chat_template.jinja").unlink()
    with pytest.raises(ConfigurationError, match="text_processor: has no chat template"):
        load_encoder(path, None, ElementType.FLOAT32, "cpu")
