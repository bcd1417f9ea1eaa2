"""Qwen-Image and its release 2512, which differ in their weights alone."""

from pathlib import Path

from diffusers import QwenImageTransformer2DModel

from tests.checkpoints.directory import write_directory
from tests.checkpoints.schedulers import qwen_image_scheduler
from tests.checkpoints.text_encoders import QWEN_WIDTH, qwen_vl_model
from tests.checkpoints.tokenizers import QWEN_VL_CHAT, qwen_tokenizer
from tests.checkpoints.vaes import LATENT_CHANNELS, qwen_image_vae

TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity,"
    " text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)


def build(directory: Path) -> None:
    """Writes the first release."""
    _build(directory, "qwen-image")


def build_2512(directory: Path) -> None:
    """Writes the release of December 2025."""
    _build(directory, "qwen-image-2512")


def _build(directory: Path, name: str) -> None:
    tokenizer = qwen_tokenizer([TEMPLATE], chat_template=QWEN_VL_CHAT)
    write_directory(
        directory,
        name,
        "QwenImagePipeline",
        {
            "scheduler": qwen_image_scheduler(),
            "text_encoder": qwen_vl_model(tokenizer),
            "tokenizer": tokenizer,
            "transformer": transformer(),
            "vae": qwen_image_vae(),
        },
    )


def transformer(**options: bool) -> QwenImageTransformer2DModel:
    """Double blocks; `options` are those of the class by which layered pictures differ."""
    return QwenImageTransformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=2,
        num_attention_heads=4,
        attention_head_dim=16,
        axes_dims_rope=(4, 6, 6),
        joint_attention_dim=QWEN_WIDTH,
        **options,
    )
