"""Tokenizers with the published classes and conventions, and vocabularies of a few hundred pieces.

Nothing is sampled and nothing depends on hash order: the same texts give the same files.
"""

import json
import re
from collections.abc import Iterable, Sequence

from tokenizers import AddedToken, pre_tokenizers, trainers
from transformers import CLIPTokenizer, Qwen2Tokenizer, T5TokenizerFast

QWEN3_CHAT = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
"""How Qwen3's published template renders a conversation without tools."""

QWEN_VL_CHAT = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""How Qwen2.5-VL's published template renders a conversation about still images."""

_QWEN_SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_CHAT_WORDS = "system\nuser\nassistant\nYou are a helpful assistant."
_T5_TEXT = "a red circle on the blue background of an image, two cats and three dogs"
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def qwen_tokenizer(
    templates: Iterable[str], *, chat_template: str, thinking: bool = False
) -> Qwen2Tokenizer:
    """A byte-level BPE in which every word of the templates is one token.

    Pipelines drop a fixed number of leading tokens; with one token per word it is the published
    number. Prompts fall back to pieces and bytes, so any text has tokens.

    Args:
        templates: the texts that pipelines put around a prompt.
        chat_template: what `apply_chat_template` renders.
        thinking: whether the vocabulary has Qwen3's `<think>` and `</think>`.
    """
    trainer = trainers.BpeTrainer(
        # More than the templates can fill: merging ends when every word is whole.
        vocab_size=8192,
        min_frequency=1,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    trained = Qwen2Tokenizer().backend_tokenizer
    trained.train_from_iterator(_plain_texts([*templates, _CHAT_WORDS]), trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        eos_token="<|im_end|>",
        extra_special_tokens=list(_QWEN_SPECIAL),
        chat_template=chat_template,
        model_max_length=131072,
    )
    if thinking:
        tokenizer.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    return tokenizer


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's vocabulary before any merge: every byte, inside and at the end of a word.

    Args:
        pad_token: "!" in OpenCLIP's checkpoints.
    """
    units = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The end has the highest id: text encoders find it by argmax.
    pieces = [*units, *(f"{unit}</w>" for unit in units), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={piece: position for position, piece in enumerate(pieces)},
        merges=[],
        pad_token=pad_token,
        model_max_length=77,
    )


def t5_tokenizer(texts: Sequence[str] = (), *, max_tokens: int) -> T5TokenizerFast:
    """A unigram model over words and single characters; what it has not seen is `<unk>`.

    Args:
        texts: further texts whose words and characters it knows, besides printable ASCII.
        max_tokens: the published `model_max_length`.
    """
    known = " ".join([_T5_TEXT, *texts])
    characters = sorted({"▁", *_PRINTABLE, *known} - {" "})
    words = sorted({f"▁{word}" for word in known.split()} - set(characters))
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece, -4.0) for piece in words]
    vocabulary += [(piece, -6.0) for piece in characters]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=max_tokens)


def _plain_texts(texts: Iterable[str]) -> list[str]:
    """Cuts out special tokens and placeholders, which must not be learnt as ordinary text."""
    return [piece for text in texts for piece in re.split(r"<\|\w+\|>|\{\}", text) if piece]
