"""Qwen-Image-Edit, its release 2509 for several pictures, and Qwen-Image-Layered."""

from pathlib import Path

from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

from services.numerics.still_image_processor import StillImageProcessor
from tests.checkpoints.directory import write_directory
from tests.checkpoints.qwen_image import TEMPLATE, transformer
from tests.checkpoints.schedulers import qwen_image_scheduler
from tests.checkpoints.text_encoders import qwen_vl_model
from tests.checkpoints.tokenizers import QWEN_VL_CHAT, qwen_tokenizer
from tests.checkpoints.vaes import qwen_image_vae

_EDIT_TEMPLATE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture,"
    " objects, background), then explain how the user's text instruction should alter or modify"
    " the image. Generate a new image that meets the user's requirements while maintaining"
    " consistency with the original input where appropriate.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
# 2509 numbers the pictures before the prompt.
_PICTURE = "Picture {}: "


def build(directory: Path) -> None:
    """Writes the model that changes one picture."""
    _build(
        directory,
        "qwen-image-edit",
        "QwenImageEditPipeline",
        _EDIT_TEMPLATE,
        transformer(),
        qwen_image_vae(),
    )


def build_2509(directory: Path) -> None:
    """Writes the model that combines up to three pictures."""
    _build(
        directory,
        "qwen-image-edit-2509",
        "QwenImageEditPlusPipeline",
        _EDIT_TEMPLATE,
        transformer(),
        qwen_image_vae(),
    )


def build_layered(directory: Path) -> None:
    """Writes the model that takes a picture apart into layers with an alpha channel."""
    _build(
        directory,
        "qwen-image-layered",
        "QwenImageLayeredPipeline",
        TEMPLATE,
        transformer(use_additional_t_cond=True, use_layer3d_rope=True),
        qwen_image_vae(channels=4),
    )


def _build(
    directory: Path,
    name: str,
    pipeline_class: str,
    template: str,
    denoiser: QwenImageTransformer2DModel,
    vae: AutoencoderKLQwenImage,
) -> None:
    tokenizer = qwen_tokenizer([template, _PICTURE], chat_template=QWEN_VL_CHAT)
    write_directory(
        directory,
        name,
        pipeline_class,
        {
            "processor": StillImageProcessor.new(tokenizer),
            "scheduler": qwen_image_scheduler(),
            "text_encoder": qwen_vl_model(tokenizer),
            "tokenizer": tokenizer,
            "transformer": denoiser,
            "vae": vae,
        },
        published_classes={"processor": "Qwen2VLProcessor"},
    )
