"""Wan2.2-T2V-A14B: UMT5, an expert for high noise and one for low, and a video autoencoder."""

from pathlib import Path

from diffusers import UniPCMultistepScheduler, WanTransformer3DModel

from tests.checkpoints.directory import write_directory
from tests.checkpoints.text_encoders import umt5_encoder
from tests.checkpoints.tokenizers import t5_tokenizer
from tests.checkpoints.vaes import LATENT_CHANNELS, wan_vae

_TEXT_WIDTH = 32
# The opening words of its published negative prompt.
_CHINESE = "色调艳丽 过曝 静态 细节模糊不清 字幕 风格 作品 画作 画面 静止 整体发灰 最差质量 低质量"


def build(directory: Path) -> None:
    """Writes the checkpoint."""
    tokenizer = t5_tokenizer([_CHINESE], max_tokens=512)
    write_directory(
        directory,
        "wan2.2-t2v-a14b",
        "WanPipeline",
        {
            "scheduler": scheduler(),
            "text_encoder": umt5_encoder(tokenizer, _TEXT_WIDTH),
            "tokenizer": tokenizer,
            "transformer": _transformer(),
            "transformer_2": _transformer(),
            "vae": wan_vae(),
        },
        published_classes={"tokenizer": "T5TokenizerFast"},
        boundary_ratio=0.875,
    )


def scheduler() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
    )


def _transformer() -> WanTransformer3DModel:
    return WanTransformer3DModel(
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=16,
        ffn_dim=128,
        text_dim=_TEXT_WIDTH,
    )
