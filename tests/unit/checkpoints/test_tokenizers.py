"""Any prompt has tokens, templates have the published number of them, and files say the same."""

from inspect import signature
from pathlib import Path

import pytest
from diffusers import (
    OvisImagePipeline,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageLayeredPipeline,
    QwenImagePipeline,
)
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from tests.checkpoints import MODELS, checkpoint
from tests.checkpoints.tokenizers import (
    QWEN3_CHAT,
    QWEN_VL_CHAT,
    clip_tokenizer,
    qwen_tokenizer,
    t5_tokenizer,
)

PROMPTS = ["", " ", "a red circle", "two  spaces\nand {braces} %s", "Ein 🟠 naïve 漢字 ☂"]
QWEN_PIPELINES = {
    "qwen-image": QwenImagePipeline,
    "qwen-image-edit": QwenImageEditPipeline,
    "qwen-image-edit-2509": QwenImageEditPlusPipeline,
    "qwen-image-layered": QwenImageLayeredPipeline,
}
QWEN = qwen_tokenizer(["Describe {}"], chat_template=QWEN_VL_CHAT)
CLIP = clip_tokenizer()
T5 = t5_tokenizer(["色调艳丽"], max_tokens=512)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    for name in MODELS:
        checkpoint(name, directory)
    return directory


@given(st.text())
def test_qwen_keeps_every_prompt_word_for_word(prompt: str) -> None:
    ids = QWEN(prompt).input_ids
    # Both ends of the comparison in Unicode's composed form, as the published tokenizer reads it.
    assert QWEN.decode(ids) == QWEN.backend_tokenizer.normalizer.normalize_str(prompt)


@given(st.text())
def test_clip_reads_every_prompt_and_fills_its_77_places(prompt: str) -> None:
    ids = CLIP(prompt, padding="max_length", max_length=77, truncation=True).input_ids
    assert len(ids) == 77
    assert ids[0] == CLIP.bos_token_id
    assert max(ids) == CLIP.eos_token_id


@given(st.text())
def test_t5_reads_every_prompt_up_to_its_end(prompt: str) -> None:
    ids = T5(prompt).input_ids
    assert ids[-1] == T5.eos_token_id
    assert max(ids) < len(T5)


def test_t5_knows_the_words_and_characters_it_was_given() -> None:
    assert T5.tokenize("a red cat") == ["▁a", "▁red", "▁", "c", "a", "t"]
    assert T5.tokenize("色调") == ["▁", "色", "调"]
    assert T5.tokenize("ж") == ["▁", "ж"]
    assert T5.convert_tokens_to_ids("ж") == T5.unk_token_id


def test_an_empty_prompt_is_t5s_end_alone() -> None:
    assert T5("").input_ids == [T5.eos_token_id]


def test_special_tokens_are_one_token_each() -> None:
    text = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
    assert QWEN.tokenize(text) == [
        "<|im_start|>",
        "user",
        "Ċ",
        "<|vision_start|>",
        "<|image_pad|>",
        "<|vision_end|>",
        "<|im_end|>",
        "Ċ",
    ]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", QWEN_PIPELINES)
def test_qwen_image_drops_its_system_message_and_nothing_of_the_prompt(
    built: Path, name: str, prompt: str
) -> None:
    # Only its template and its numbers are asked for.
    kind = QWEN_PIPELINES[name]
    pipeline = kind(**dict.fromkeys(signature(kind).parameters))
    tokenizer = Qwen2Tokenizer.from_pretrained(built / name / "tokenizer", local_files_only=True)
    text = pipeline.prompt_template_encode.format(prompt)
    kept = tokenizer(text).input_ids[pipeline.prompt_template_encode_start_idx :]
    assert tokenizer.decode(kept) == text.partition("<|im_start|>user\n")[2]


def test_ovis_image_drops_all_but_the_last_sign_of_its_instruction(built: Path) -> None:
    pipeline = OvisImagePipeline.from_pretrained(
        built / "ovis-image-7b",
        text_encoder=None,
        transformer=None,
        vae=None,
        local_files_only=True,
    )
    (message,) = pipeline._get_messages("a circle")
    kept = pipeline.tokenizer(message).input_ids[pipeline.user_prompt_begin_id :]
    # The instruction has a token more than the published pipeline drops.
    assert pipeline.tokenizer.decode(kept) == (
        ": a circle<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_qwen3_thinks_unless_told_otherwise() -> None:
    tokenizer = qwen_tokenizer([], chat_template=QWEN3_CHAT, thinking=True)
    messages = [{"role": "user", "content": "hi {x}"}]
    asked = "<|im_start|>user\nhi {x}<|im_end|>\n<|im_start|>assistant\n"
    for thinking, rendered in ((True, asked), (False, f"{asked}<think>\n\n</think>\n\n")):
        assert rendered == tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
    assert "<think>" in tokenizer.tokenize(rendered)


def test_qwen_vl_opens_with_its_usual_system_message_and_marks_pictures() -> None:
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}
    ]
    assert QWEN.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>what is it?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("tokenizer", [QWEN, CLIP, T5], ids=["qwen", "clip", "t5"])
def test_a_tokenizer_read_back_from_its_files_gives_the_same_ids(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path, local_files_only=True)
    assert len(again) == len(tokenizer)
    for prompt in PROMPTS:
        assert again(prompt).input_ids == tokenizer(prompt).input_ids
