"""Stable Diffusion 3.5 medium: two CLIPs and T5; blocks with dual and with single attention."""

import json
import shutil
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

from tests.checkpoints.directory import write_directory
from tests.checkpoints.text_encoders import clip_text_model_with_projection, t5_encoder
from tests.checkpoints.tokenizers import clip_tokenizer, t5_tokenizer
from tests.checkpoints.vaes import LATENT_CHANNELS, sd3_vae

_CLIP_WIDTH = 16
_CLIP_2_WIDTH = 32
# More than the two together, as published: their embeddings are padded to it.
_T5_WIDTH = 64
_HEADS = 4
_HEAD_SIZE = 8


def build(directory: Path) -> None:
    """Writes the checkpoint."""
    clip, open_clip = clip_tokenizer(), clip_tokenizer(pad_token="!")
    t5 = t5_tokenizer(max_tokens=512)
    write_directory(
        directory,
        "stable-diffusion-3.5-medium",
        "StableDiffusion3Pipeline",
        {
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
            "text_encoder": clip_text_model_with_projection(clip, _CLIP_WIDTH, "quick_gelu"),
            "text_encoder_2": clip_text_model_with_projection(open_clip, _CLIP_2_WIDTH, "gelu"),
            "text_encoder_3": t5_encoder(t5, _T5_WIDTH),
            "tokenizer": clip,
            "tokenizer_2": open_clip,
            "tokenizer_3": t5,
            "transformer": _transformer(),
            "vae": sd3_vae(),
        },
        published_classes={"tokenizer_3": "T5TokenizerFast"},
    )


def build_without_t5(directory: Path) -> None:
    """The same as those write it who do without the largest of the encoders."""
    build(directory)
    index = directory / "model_index.json"
    entries = json.loads(index.read_text(encoding="utf-8"))
    for subfolder in ("text_encoder_3", "tokenizer_3"):
        shutil.rmtree(directory / subfolder)
        entries[subfolder] = [None, None]
    index.write_text(json.dumps(entries), encoding="utf-8")


def _transformer() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        # The last block is of a third kind: it leaves the text as it is.
        num_layers=5,
        dual_attention_layers=(0, 1),
        num_attention_heads=_HEADS,
        attention_head_dim=_HEAD_SIZE,
        caption_projection_dim=_HEADS * _HEAD_SIZE,
        joint_attention_dim=_T5_WIDTH,
        pooled_projection_dim=_CLIP_WIDTH + _CLIP_2_WIDTH,
        # Stored as a square of positions; this many reach 1024 pixels a side.
        pos_embed_max_size=64,
        qk_norm="rms_norm",
    )
