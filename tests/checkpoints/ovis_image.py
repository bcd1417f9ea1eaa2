"""Ovis-Image: Qwen3 read after a fixed instruction, double and single blocks."""

from pathlib import Path

from diffusers import OvisImageTransformer2DModel

from tests.checkpoints.directory import write_directory
from tests.checkpoints.schedulers import flux_scheduler
from tests.checkpoints.text_encoders import QWEN_WIDTH, qwen3_model
from tests.checkpoints.tokenizers import QWEN3_CHAT, qwen_tokenizer
from tests.checkpoints.vaes import LATENT_CHANNELS, flux_vae

_INSTRUCTION = (
    "Describe the image by detailing the color, quantity, text, shape, size, texture, spatial"
    " relationships of the objects and background: "
)


def build(directory: Path) -> None:
    """Writes the checkpoint."""
    tokenizer = qwen_tokenizer([_INSTRUCTION], chat_template=QWEN3_CHAT, thinking=True)
    write_directory(
        directory,
        "ovis-image-7b",
        "OvisImagePipeline",
        {
            "scheduler": flux_scheduler(),
            "text_encoder": qwen3_model(tokenizer),
            "tokenizer": tokenizer,
            "transformer": _transformer(),
            "vae": flux_vae(),
        },
        published_classes={"tokenizer": "Qwen2TokenizerFast"},
    )


def _transformer() -> OvisImageTransformer2DModel:
    return OvisImageTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        out_channels=4 * LATENT_CHANNELS,
        num_layers=2,
        num_single_layers=2,
        num_attention_heads=4,
        attention_head_dim=8,
        axes_dims_rope=(4, 2, 2),
        joint_attention_dim=QWEN_WIDTH,
    )
