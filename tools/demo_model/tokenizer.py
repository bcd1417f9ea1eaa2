"""The byte-level BPE tokenizer: a tiny vocabulary with the conventions of Qwen2."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from tools.demo_model.captions import COLOURS, KINDS, sample_scene, vary

TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""The prompt template of the Qwen-Image pipeline."""

PREFIX_TOKENS = 34
"""The pipeline drops this many leading tokens, so the template must encode to just as many."""

TEXT_TOKENS = 20
"""Length, in tokens after the prefix, to which training captions are padded."""

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

PROBES = ("", " ", "A Red HEART", "3 cats, 42 dogs!", "naïve 漢字 ☂", "two  spaces", "a.\nb")
"""Odd prompts for which the prefix must keep its length."""

_PRE_TOKENS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(seed: int, captions: int = 4000) -> Qwen2Tokenizer:
    """Trains the tokenizer on captions inside the template.

    Every word of the template becomes a single token, which gives the 34-token prefix.

    Args:
        seed: Seed of the captions.
        captions: How many captions to learn from.

    Returns:
        A `Qwen2Tokenizer`.
    """
    rng = np.random.default_rng([seed, 0x70C])
    corpus = []
    for index in range(captions):
        caption = vary(rng, sample_scene(rng, KINDS[index % len(KINDS)]))
        corpus.append(TEMPLATE.format(caption))
    # Single words in every position and case, so that a bare "Red" is not spelled in bytes.
    corpus += [word for colour in COLOURS for word in (colour, colour.capitalize())] * 50
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PRE_TOKENS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=504,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(_plain(corpus), trainer)
    return _as_qwen(tokenizer)


def load_tokenizer(directory: Path) -> Qwen2Tokenizer:
    """Loads the tokenizer of an exported model directory."""
    return Qwen2Tokenizer.from_pretrained(str(directory / "tokenizer"))


def check_prefix(tokenizer: Qwen2Tokenizer) -> None:
    """Makes sure that exactly 34 tokens precede any prompt, and that prompts survive.

    Raises:
        ValueError: The tokenizer breaks the pipeline's assumption.
    """
    head = TEMPLATE.partition("{}")[0]
    prefix = tokenizer(head).input_ids
    if len(prefix) != PREFIX_TOKENS:
        raise ValueError(f"the template's prefix has {len(prefix)} tokens, not {PREFIX_TOKENS}")
    for probe in PROBES:
        ids = tokenizer(TEMPLATE.format(probe)).input_ids
        if ids[:PREFIX_TOKENS] != prefix:
            raise ValueError(f"the prefix changes before the prompt {probe!r}")
        if tokenizer.decode(tokenizer(probe).input_ids) != probe:
            raise ValueError(f"the prompt {probe!r} does not survive tokenization")


def fits(tokenizer: Qwen2Tokenizer, caption: str) -> bool:
    """Whether the caption stays within the padded length that training uses."""
    return len(tokenizer(TEMPLATE.format(caption)).input_ids) <= PREFIX_TOKENS + TEXT_TOKENS


def encode(tokenizer: Qwen2Tokenizer, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokenizes captions inside the template, padded on the right to a fixed length.

    Returns:
        Token ids, int32 of shape [n, 54], and their lengths with the prefix, int32 of shape [n].
    """
    width = PREFIX_TOKENS + TEXT_TOKENS
    batch = tokenizer([TEMPLATE.format(caption) for caption in captions]).input_ids
    ids = torch.full((len(batch), width), tokenizer.pad_token_id, dtype=torch.int32)
    lengths = torch.zeros(len(batch), dtype=torch.int32)
    for row, tokens in enumerate(batch):
        if len(tokens) > width:
            raise ValueError(f"caption of {len(tokens)} tokens is too long: {captions[row]!r}")
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
        lengths[row] = len(tokens)
    return ids, lengths


def _plain(corpus: list[str]) -> list[str]:
    """Cuts the corpus at the special tokens, which must not be learnt as ordinary text."""
    pieces: list[str] = []
    for text in corpus:
        plain = text
        for special in SPECIAL_TOKENS:
            plain = plain.replace(special, "\0")
        pieces.extend(piece for piece in plain.split("\0") if piece)
    return pieces


def _as_qwen(tokenizer: Tokenizer) -> Qwen2Tokenizer:
    state = json.loads(tokenizer.to_str())["model"]
    qwen = Qwen2Tokenizer(
        vocab=state["vocab"],
        merges=[tuple(pair) for pair in state["merges"]],
        unk_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        bos_token=None,
        extra_special_tokens=list(SPECIAL_TOKENS[1:]),
    )
    check_prefix(qwen)
    return qwen
